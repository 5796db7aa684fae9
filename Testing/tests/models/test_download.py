"""Published weights are fetched when asked: whole, verified, from where an earlier try ended."""

import hashlib
import http.server
import json
import threading

import pytest

from NetInversionLib import cli
from NetInversionLib.models import ModelError
from NetInversionLib.models.foreign import download
from NetInversionLib.models.foreign.download import Published

CONTENT = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; ``ends`` is after how many bytes the connection breaks, once."""

    ranges, ends = True, None
    asked: list = []

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def do_GET(self):
        kind = type(self)
        wanted = self.headers.get("Range")
        kind.asked.append(wanted)
        first = int(wanted[len("bytes=") : -1]) if wanted and kind.ranges else 0
        data = CONTENT[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        ends, kind.ends = kind.ends, None
        self.wfile.write(data if ends is None else data[:ends])

    def log_message(self, *words):
        pass


@pytest.fixture
def weights():
    Handler.asked, Handler.ranges, Handler.ends = [], True, None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/net.pt"
    yield Published(url, hashlib.sha256(CONTENT).hexdigest())
    server.shutdown()
    server.server_close()


def test_a_download_arrives_whole_and_is_not_repeated(weights, tmp_path):
    told = []
    made = download.download(weights, tmp_path, lambda *said: told.append(said))
    assert made.read_bytes() == CONTENT and made.name == "net.pt"
    assert told[-1][0] == 1 and download.size_of(weights) == len(CONTENT)
    download.download(weights, tmp_path)
    assert len(Handler.asked) == 1 and [p.name for p in tmp_path.iterdir()] == ["net.pt"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on_where_it_was(ranges, weights, tmp_path):
    Handler.ends, Handler.ranges = 100_000, ranges
    with pytest.raises(ModelError, match="what is there is kept"):
        download.download(weights, tmp_path)
    assert not (tmp_path / "net.pt").exists()
    made = download.download(weights, tmp_path)
    assert made.read_bytes() == CONTENT and Handler.asked == [None, "bytes=100000-"]


def test_another_file_than_the_published_is_deleted(weights, tmp_path):
    wrong = Published(weights.url, "0" * 64)
    with pytest.raises(ModelError, match="not the published file.*deleted"):
        download.download(wrong, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_user_is_not_replaced_unasked(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(download.WEIGHTS, "net", weights)
    (tmp_path / "net.pt").write_bytes(b"the user's")
    words = ["models", "download", "net", "--output", str(tmp_path), "--yes"]
    assert cli.main(words) == 1 and "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "net.pt").read_bytes() == b"the user's"
    assert cli.main([*words, "--overwrite"]) == 0
    assert (tmp_path / "net.pt").read_bytes() == CONTENT


def test_a_server_that_does_not_answer_is_told(tmp_path):
    nowhere = Published("http://127.0.0.1:9/net.pt", "0" * 64)
    with pytest.raises(ModelError, match="could not be fetched"):
        download.download(nowhere, tmp_path)
    with pytest.raises(ModelError, match="does not answer"):
        download.size_of(nowhere)


def test_the_command_shows_address_size_and_sum_before_it_asks(
    weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(download.WEIGHTS, "net", weights)
    words = ["models", "download", "net", "--output", str(tmp_path)]
    assert cli.main(words) == 1
    said = capsys.readouterr()
    assert weights.url in said.out and "1.0 MB" in said.out and weights.sha256 in said.out
    assert "--yes" in said.err and Handler.asked == []
    assert cli.main([*words, "--yes"]) == 0 and (tmp_path / "net.pt").read_bytes() == CONTENT
    assert cli.main(["models", "download"]) == 0 and "redcnn-vae: https" in capsys.readouterr().out
    assert cli.main(["models", "download", "nothing"]) == 1


def test_sums_and_addresses_are_the_published_ones(parity):
    listed = json.loads((parity / "published_checkpoints.json").read_text())
    known = {e["name"]: e for e in (*listed["denoisers"], *listed["invariance_models"])}
    for name, weights in download.WEIGHTS.items():
        assert (weights.url, weights.sha256) == (known[name]["url"], known[name]["sha256"])
