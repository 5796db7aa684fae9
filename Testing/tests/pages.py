"""What is asked of every page, whoever made it."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Checks that every tag is closed where it should be.

    Keeps tags, attributes and the cells of tables.
    """

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.cells, self.styles = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, text):
        if self.open and self.open[-1] in ("td", "th", "code") and self.cells:
            self.cells[-1] += text
        if self.open and self.open[-1] == "style":
            self.styles += text


def check_alone(text):
    """Check that a page stands alone, and give its reader.

    It is well-formed, in a language, without anything from outside, and every image is described.
    """
    assert text.startswith("<!DOCTYPE html><html lang='en'>")
    reader = Reader(text)
    tags = [tag for tag, _ in reader.seen]
    assert "script" not in tags and "link" not in tags and "iframe" not in tags
    for tag, attributes in reader.seen:
        assert attributes.get("src", "data:").startswith("data:image/") or "src" not in attributes
        assert "href" not in attributes and not [
            name for name in attributes if name.startswith("on")
        ]
        assert tag != "img" or attributes.get("alt"), "a picture without words"
    assert "url(" not in reader.styles and "@import" not in reader.styles
    return reader


def pictures_of(text):
    """All pictures of a page, as arrays."""
    found = re.findall(r"data:image/png;base64,([^']+)'", text)
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)
        for data in found
    ]


def check_same(text, other):
    """The same words and numbers, apart from the time; pictures that look the same.

    A scene keeps the numbers of curves and tables as text of some digits: a line may move by a part
    of a pixel.
    """
    apart = r"(page written</td><td>[^<]*|base64,[^']*)"
    words = [re.split("(?=<)", re.sub(apart, "", page)) for page in (text, other)]
    assert len(words[0]) == len(words[1])
    differing = [pair for pair in zip(*words) if pair[0] != pair[1]]
    assert not differing, differing[:3]
    pairs = list(zip(pictures_of(text), pictures_of(other), strict=True))
    for one, two in pairs:
        assert one.shape == two.shape and np.abs(one - two).mean() < 0.05
    return len(pairs)
