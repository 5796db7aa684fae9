"""A scanner's settings: each does what its formula says, and what it buys is found."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from toy_models import linear, model, smooth, volume
from toy_mr import run

from NetInversionLib.core.progress import Progress
from NetInversionLib.ideal_input import acquirable, knobs, protocol
from NetInversionLib.ideal_input.dixon import DixonSettings, echo_signals, simulate_arrays
from NetInversionLib.ideal_input.knobs import Scanner, noise_sigma
from NetInversionLib.ideal_input.protocol import SETTINGS, Protocol
from NetInversionLib.optimise.objective import Objective, Terms

ROLES = ["in_phase", "fat_fraction", "water_fraction"]
STILL = torch.zeros(len(SETTINGS), dtype=torch.float64)


def of(**given):
    """The reference protocol with some settings given in their own units."""
    fields = dict(zip(Protocol.__dataclass_fields__, (s.reference for s in SETTINGS)))
    return Protocol(**{k: torch.tensor(v).double() for k, v in {**fields, **given}.items()})


def phantom(shape=(1, 40, 44)):
    """A leg: fat around muscle around cortical bone, in HU [k, j, i]."""
    j, i = np.indices(shape[1:])
    distance = np.hypot(j - shape[1] / 2, i - shape[2] / 2)
    hu = np.select([distance < 4, distance < 11, distance < 16], [1400.0, 50.0, -100.0], -1000.0)
    return np.broadcast_to(hu, shape).astype(np.float32)


def scanner(snr=40.0, psf_mm=3.0):
    hu = phantom()
    # Fat is about twice as bright as water: the gain keeps the image in the network's 0 to 1.
    simulated = simulate_arrays(
        hu,
        (3, 3, 3),
        DixonSettings(bias=0, snr=snr, psf_mm=psf_mm, gain=0.5),
        np.random.default_rng(0),
    )
    patient = torch.from_numpy(simulated).transpose(0, 1).contiguous()
    return Scanner(patient, ROLES, 3.0, torch.from_numpy(hu)[:, None])


def values(found, **given):
    """All settings at rest but those given, in [-1, 1]."""
    v = torch.zeros(len(SETTINGS) + len(found.basis))
    for name, value in given.items():
        v[list(Protocol.__dataclass_fields__).index(name)] = value
    return v


# -- the signal equations --------------------------------------------------------------------------


def test_settings_run_from_bound_to_bound_through_the_reference():
    for setting in SETTINGS:
        ends = [float(setting.value(torch.tensor(v).double())) for v in (-1.0, 0.0, 1.0)]
        assert ends == pytest.approx([setting.low, setting.reference, setting.high])
        assert setting.source


@pytest.mark.parametrize("tissue", [protocol.WATER, protocol.FAT, protocol.BONE])
def test_signal_of_one_echo_is_the_steady_state_of_excitation_after_excitation(tissue):
    """Against the longitudinal magnetisation followed through 2000 repetitions."""
    p = of(echo_time=0.5, repetition=8.0, flip=15.0, echoes=1.0)
    along = 1.0
    for _ in range(2000):
        signal = along * math.sin(math.radians(15))
        along *= math.cos(math.radians(15))
        along = 1 + (along - 1) * math.exp(-8.0 / tissue.t1_ms)
    expected = tissue.density * signal * math.exp(-0.5 / tissue.t2star_ms)
    assert float(p.signal(tissue)) == pytest.approx(expected, rel=1e-6)


def test_signal_is_largest_at_the_ernst_angle():
    angles = torch.linspace(1, 40, 400).tolist()
    signals = [float(of(flip=angle, repetition=20.0).signal(protocol.FAT)) for angle in angles]
    ernst = math.degrees(math.acos(math.exp(-20.0 / protocol.FAT.t1_ms)))
    assert angles[int(np.argmax(signals))] == pytest.approx(ernst, abs=0.1)


@pytest.mark.parametrize("tissue", [protocol.WATER, protocol.FAT, protocol.BONE])
def test_signal_at_rest_is_the_density_and_decays_with_t2star(tissue):
    """All recovered, all turned, nothing decayed: what there is, times exp(-TE/T2*)."""
    still = {"repetition": 1e5, "flip": 90.0, "echoes": 1.0}
    at = {time: float(of(echo_time=time, **still).signal(tissue)) for time in (1e-6, 0.4, 2.3)}
    assert at[1e-6] == pytest.approx(tissue.density, rel=1e-5)
    for time in (0.4, 2.3):
        expected = tissue.density * math.exp(-time / tissue.t2star_ms)
        assert at[time] == pytest.approx(expected, rel=1e-5)


def test_fat_against_water_is_the_ratio_of_small_angles_and_of_t1():
    """At small angles neither T1 counts; at large ones and short repetitions 1 / T1 does."""
    short = {"repetition": 3.0, "echo_time": 1e-6, "echoes": 1.0}
    water, fat = protocol.WATER, protocol.FAT
    light = of(flip=1e-3, **short)
    assert float(light.signal(fat) / light.signal(water)) == pytest.approx(1, rel=1e-3)
    heavy = of(flip=90.0, repetition=1.0, echo_time=1e-6, echoes=1.0)
    told = float(heavy.signal(fat) / heavy.signal(water))
    assert float(heavy.repetition_ms) < 2
    assert told == pytest.approx(water.t1_ms / fat.t1_ms, rel=2e-3)


def test_several_echoes_are_averaged():
    one = [
        float(of(echo_time=0.1 + n * 0.7, echoes=1.0, repetition=20.0).signal(protocol.BONE))
        for n in range(4)
    ]
    four = of(echo_time=0.1, spacing=0.7, echoes=4.0, repetition=20.0)
    assert float(four.signal(protocol.BONE)) == pytest.approx(np.mean(one))


@pytest.mark.parametrize("echoes", [2, 3, 6])
@pytest.mark.parametrize("spacing", [0.7, 1.15, 1.6])
def test_averaging_is_that_of_least_squares(echoes, spacing):
    """Water and fat from echoes by least squares: its covariance written out."""
    phase = 2j * math.pi * protocol.WATER_FAT_HZ * spacing / 1000
    a = np.stack([np.ones(echoes), np.exp(phase * np.arange(echoes))], 1)
    variance = np.linalg.inv(a.conj().T @ a)[0, 0].real
    found = of(spacing=spacing, echoes=float(echoes)).averaging()
    assert float(found) == pytest.approx(1 / variance, rel=1e-6)


def test_noise_and_time_follow_voxel_averages_and_repetition():
    still = of()
    assert float(of(averages=4.0).noise() / still.noise()) == pytest.approx(0.5)
    assert float(of(averages=4.0).minutes(100) / still.minutes(100)) == pytest.approx(4)
    # Twice the voxel's edge: eight times the volume, a quarter of the lines.
    assert float(of(voxel=2.0).noise() / still.noise()) == pytest.approx(2 / 8)
    assert float(of(voxel=2.0).minutes(100) / still.minutes(100)) == pytest.approx(1 / 4)
    assert float(still.minutes(1000)) == pytest.approx(1000 * 6.0 / 60_000, rel=2e-3)
    # Six echoes do not fit into the reference's repetition: 2.3 + 5 x 1.15 + 1.2 ms.
    assert float(of(echoes=6.0).repetition_ms) == pytest.approx(9.25)
    # Half of the data kept: twice the time, and no more signal.
    gated = of(gating=0.5)
    assert float(gated.minutes(1000) / still.minutes(1000)) == pytest.approx(2, rel=2e-3)
    assert float(gated.noise() / still.noise()) == pytest.approx(1)
    # Half as much of k-space in each shot that starts at its centre.
    short = of(echo_time=0.1)
    assert float(short.minutes(1000)) == pytest.approx(2 * 1000 * 6.0 / 60_000, rel=2e-3)


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.8, 0.999])
def test_gating_keeps_the_middle_of_a_normal_distribution(kept):
    """Breathing's deviation is SciPy's of a normal distribution cut at both sides; drift adds."""
    p = of(gating=kept)
    reach = stats.norm.ppf((1 + kept) / 2)
    breathing = protocol.BREATHING_MM * stats.truncnorm(-reach, reach).std()
    drift = protocol.DRIFT_MM_PER_MINUTE * float(p.minutes(50_000))
    assert float(p.motion_mm(50_000)) == pytest.approx(math.hypot(breathing, drift), rel=1e-6)


def test_a_patient_holds_still_for_a_breath():
    p = of()
    lines = [60_000 * seconds / 60 / 6.0 for seconds in (10, 30)]
    short, long = (float(p.motion_mm(n)) for n in lines)
    assert short == pytest.approx(protocol.DRIFT_MM_PER_MINUTE / 6, rel=2e-3)
    assert long == pytest.approx(protocol.BREATHING_MM, rel=0.02)


@pytest.mark.parametrize("frequency", [1 / 40, 1 / 10, 1 / 5])
def test_voxel_and_motion_blur_a_wave_as_their_gaussians_do(frequency):
    """exp(-2 (pi sigma f)^2), with the variances of voxel and motion added."""
    p = of(voxel=1.5, averages=8.0)
    width = p.sharpness(knobs.LINES, 2.0)
    moved = float(p.motion_mm(knobs.LINES)) / 2.0
    assert moved > 0.9
    variance = (1.5 / protocol.WIDTH) ** 2 + moved**2
    wave = torch.cos(2 * math.pi * frequency * torch.arange(80, dtype=torch.float64))
    seen = knobs._blurred(wave.expand(1, 1, 80, 80), width)[0, 0, 40, 20:60]
    expected = math.exp(-2 * math.pi**2 * variance * frequency**2) * wave[20:60]
    np.testing.assert_allclose(seen, expected, atol=2e-3)


# -- images ----------------------------------------------------------------------------------------


def test_settings_at_rest_are_the_patients_own_images():
    found = scanner()
    assert torch.allclose(found.images(values(found)), found.patient, atol=1e-6)


def test_contrast_of_the_reference_is_the_simulators(monkeypatch):
    """Soft tissue and fat give the simulator's water and fat at the same echo time.

    Bone, whose T1 the simulator leaves out, gives its signal in the ratio of its steady state to
    water's.
    """
    monkeypatch.setattr(knobs, "_blurred", lambda image, width: image)
    found = scanner(snr=math.inf)
    one = of(echoes=1.0)
    water, fat, bone = (one.signal(t) for t in (protocol.WATER, protocol.FAT, protocol.BONE))
    decay = math.exp(-2.3 / 25)
    brightness = float(fat / water) * math.exp(2.3 / 15) * decay
    both = echo_signals(phantom(), DixonSettings(fat_brightness=brightness))
    total, expected = found.contrast(one)[0][0], (both[0] + both[1])[0] / decay
    for place in ((20, 30), (20, 36)):
        assert total[place] == pytest.approx(expected[place], rel=1e-3)
    fractions = [part[0, 20, 22] for part in found.fractions]
    in_bone = fractions[0] + fractions[1] * fat / water + fractions[2] * bone / water
    assert float(total[20, 22]) == pytest.approx(float(in_bone), rel=1e-3)


def test_an_ultrashort_echo_lights_bone_and_a_flip_angle_changes_fat_against_muscle():
    found = scanner(snr=math.inf)
    bone, fat, muscle = (20, 22), (20, 36), (20, 30)

    def ratio(image, place):
        return float(image[0, 0][place] / image[0, 0][muscle])

    plain = found.patient
    short = found.images(values(found, echo_time=-1.0)).detach()
    assert ratio(plain, bone) < 0.2 < 2 * ratio(plain, bone) < ratio(short, bone)
    assert short[0, 2][bone] > plain[0, 2][bone] + 0.1, "it is water"
    steep = found.images(values(found, flip=1.0)).detach()
    low = found.images(values(found, flip=-1.0)).detach()
    assert ratio(low, fat) < ratio(plain, fat) < ratio(steep, fat), "fat's T1 is short"


def test_averages_take_noise_away():
    found = scanner(snr=20.0)
    quiet = found.images(values(found, averages=1.0))
    before, after = (noise_sigma(x[0, 0].numpy()) for x in (found.patient, quiet))
    assert after < 0.75 * before


@pytest.mark.parametrize("averages", [0.25, 0.5, 4.0])
def test_noise_falls_as_the_root_of_averages(averages, monkeypatch):
    """In the body, of a patient who lies still: the difference from a scan without any noise.

    A little of it is not told from structure, so a little less is taken away.
    """
    monkeypatch.setattr(protocol, "BREATHING_MM", 0.0)
    monkeypatch.setattr(protocol, "DRIFT_MM_PER_MINUTE", 0.0)
    found = scanner(snr=20.0)
    clean = scanner(snr=math.inf).patient[:, 0]
    bound = 8.0 if averages > 1 else 0.25
    v = values(found, averages=math.copysign(1, averages - 1) * math.log(averages, bound))
    assert float(found.protocol(v).averages) == pytest.approx(averages, rel=1e-5)
    body = found.reference[0] > knobs.BODY
    seen, own = ((x - clean)[body].std() for x in (found.images(v)[:, 0], found.patient[:, 0]))
    assert float(seen / own) == pytest.approx(1 / math.sqrt(averages), rel=0.2)


@pytest.mark.parametrize("psf_mm", [2.0, 3.0, 4.0])
def test_noise_is_told_from_structure_however_sharp_the_image_is(psf_mm):
    """What is called noise is what was added."""
    found, clean = scanner(snr=20.0, psf_mm=psf_mm), scanner(snr=math.inf, psf_mm=psf_mm)
    body = found.reference[0] > knobs.BODY
    added = (found.patient - clean.patient)[:, 0][body]
    called = sum(found.noise)[body]
    assert float(torch.corrcoef(torch.stack([added, called]))[0, 1]) > 0.9
    assert float(called.std() / added.std()) == pytest.approx(1, rel=0.15)


def test_where_there_is_less_signal_fractions_have_more_noise():
    """The same noise of both signals moves the fat fraction by (W dF - F dW) / (W + F)^2."""
    in_phase = torch.tensor([1.0, 0.25], dtype=torch.float64)
    fat, water = (torch.full((2,), share, dtype=torch.float64) for share in (0.3, 0.7))
    noise = [torch.full((2,), d, dtype=torch.float64) for d in (1e-6, -1e-6)]
    found, _ = knobs._with_noise(in_phase, fat, water, noise, 1e-9)
    np.testing.assert_allclose((found - fat) * in_phase, [1e-6, 1e-6], rtol=1e-4)


def test_smaller_voxels_are_sharper_and_noisier():
    """In one breath: the averages fall with the voxels."""
    found = scanner(snr=math.inf)
    edges = [
        float(
            found.images(values(found, voxel=v, averages=min(v, 0)))[0, 0].diff(dim=-1).abs().max()
        )
        for v in (-0.5, 0.0, 0.5)
    ]
    assert edges[0] > edges[1] > edges[2]
    p = found.protocol(values(found, voxel=-0.5))
    assert p.noise() > found.protocol(values(found)).noise()


def test_receive_field_is_smooth_and_acts_on_magnitudes_only():
    found = scanner()
    v = values(found)
    v[len(SETTINGS) :] = torch.linspace(-1, 1, len(found.basis))
    turned = found.images(v)
    assert torch.equal(turned[:, 1:], found.images(values(found))[:, 1:])
    ratio = (turned[:, 0] / found.patient[:, 0]).log()
    field = torch.where(found.patient[:, 0] > 0.01, ratio, torch.nan)[0]
    third = field.diff(n=3, dim=-1)
    assert third[~third.isnan()].abs().max() < 1e-3


def test_one_term_of_the_receive_field_is_its_exponential():
    """A ramp along the lines of half its largest strength: exp(0.15 x), x from -1 to 1."""
    found = scanner()
    v = values(found)
    ramp = next(n for n, term in enumerate(found.basis) if float(term[0].diff().min()) > 0)
    v[len(SETTINGS) + ramp] = 0.5
    place = torch.linspace(-1, 1, found.patient.shape[-1])
    expected = found.patient[:, 0] * torch.exp(0.5 * knobs.FIELD * place)
    torch.testing.assert_close(found.images(v)[:, 0], expected)


def test_slopes_of_the_settings_agree_with_finite_differences():
    found = scanner(snr=math.inf)
    found.patient, found.noise = found.patient.double(), [n.double() for n in found.noise]
    found.basis = found.basis.double()
    found.fractions = [part.double() for part in found.fractions]
    found.reference = [part.double() for part in found.reference]
    v = torch.linspace(-0.6, 0.4, len(SETTINGS) + len(found.basis), dtype=torch.float64)
    v[protocol.ECHOES] = 0.3  # below 0 the number of echoes stays
    v[protocol.GATING] = -0.3
    assert torch.autograd.gradcheck(
        lambda v: found.images(v).square().mean(), v.requires_grad_(), atol=1e-4
    )


# -- noise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(120, 130), (12, 60, 50)])
@pytest.mark.parametrize("sigma", [0.001, 0.05, 3.0])
def test_noise_sigma_of_white_noise_on_linear_structure(shape, sigma):
    noise = sigma * np.random.default_rng(1).normal(size=shape)
    index = np.indices(shape)
    assert noise_sigma(noise) == pytest.approx(sigma, rel=0.05)
    assert noise_sigma(noise + 7 + 2 * index[-1] - 3 * index[-2]) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("odd", [0.0, -1.0, 9.0], ids=["none", "one below", "one above"])
def test_a_background_of_one_value_has_no_part_in_the_noise(odd):
    image = np.zeros((100, 100))
    image[:40, :60] = 1 + 0.05 * np.random.default_rng(2).normal(size=(40, 60))
    image[80, 80] = odd
    assert noise_sigma(image) == pytest.approx(0.05, rel=0.1)


def test_noise_sigma_without_noise():
    assert noise_sigma(np.ones((20, 20))) == 0
    edges = np.zeros((64, 64))
    edges[20:40, 15:50] = 1
    assert noise_sigma(edges) == 0  # few edges do not count


def test_noise_of_an_image_is_what_was_added():
    clean = ndimage.gaussian_filter(smooth((2, 64, 64), 1), (0, 5, 5))
    noise = 0.03 * np.random.default_rng(0).normal(size=clean.shape).astype(np.float32)
    found = knobs.noise_of(torch.from_numpy(clean + noise)[:, None])[:, 0].numpy()
    assert (found - noise).std() < 0.6 * 0.03


# -- the table -------------------------------------------------------------------------------------


def table(found, target, network=None, free=None):
    network = network or linear(np.eye(found.patient.shape[1]))
    bone = torch.from_numpy(phantom() > 200)[:, None].float()
    everywhere, in_bone = (
        Objective(network, target, weight, Terms(10, 10)) for weight in (None, bone)
    )
    errors = acquirable.Errors(everywhere, in_bone, "HU", 1000.0)
    ideal = {acquirable.FREE: target if free is None else free}
    result, curve, words = acquirable.acquirable(found, errors, ideal, Progress())
    assert list(result.columns) == [
        "knob",
        "setting",
        "scan time (min)",
        "MAE (HU)",
        "MAE bone (HU)",
        "share of the free-voxel gain (%)",
    ]
    rows = zip(*result.columns.values())
    keys = ("setting", "minutes", "mae", "bone", "share")
    return {row[0]: dict(zip(keys, row[1:])) for row in rows}, curve, words


@pytest.mark.parametrize(
    "name, given", [("echo time", {"echo_time": -0.7}), ("flip angle", {"flip": 0.6})]
)
def test_the_setting_that_made_the_target_buys_it(name, given):
    found = scanner()
    target = found.images(values(found, **given)).detach()
    rows, _, _ = table(found, target)
    before = rows["none (patient's own input)"]["mae"]
    expected = 1000 * float((found.patient - target).abs().mean())
    assert before == pytest.approx(expected, rel=1e-4)
    assert rows[name]["mae"] < 0.1 * before and rows[name]["share"] > 90
    alone = {key: row["share"] for key, row in rows.items() if key in found.names and key != name}
    assert max(alone.values()) < rows[name]["share"]
    assert rows["free voxels"] == {**rows["free voxels"], "mae": 0, "share": 100}


def test_nothing_is_better_than_a_patients_image_that_fits():
    found = scanner()
    rows, _, _ = table(found, found.patient.clone())
    assert {row["mae"] for row in rows.values()} == {0.0}
    assert {row["setting"] for row in rows.values()} == {"as acquired", "ideal input"}


def test_scan_times_are_kept_and_short_echoes_left_out_where_the_row_says_so():
    found = scanner(snr=math.inf)
    target = found.images(values(found, echo_time=-0.9)).detach()
    rows, curve, words = table(found, target)
    still = rows["none (patient's own input)"]["minutes"]
    for time in (0.5, 1, 2, 4, 8):
        assert rows[f"all, {time} x the time"]["minutes"] == pytest.approx(time * still, rel=2e-3)
    bright = rows["all, 1 x the time"]
    dark = rows["all, 1 x the time, no short echo"]
    assert bright["mae"] < dark["mae"]
    echo = float(dark["setting"].split("echo time ")[1].split()[0])
    assert echo >= protocol.SHORT_ECHO_MS - 1e-6
    told = words["protocol"]
    assert "With echoes no sooner than 1 ms" in told and bright["setting"] in told
    times, errors = curve.lines["best protocol"]
    assert times == sorted(times) and len(errors) == len(acquirable.TIMES)
    assert errors == sorted(errors, reverse=True)
    assert "as it was trained: yes." in words["bone"]
    # The search's own measure is a smoothed one.
    assert rows["for bone, 1 x the time"]["bone"] < 1.01 * rows["all, 1 x the time"]["bone"] + 1e-3


def test_a_scan_that_cannot_be_as_short_as_its_row_costs_more_than_it_gains():
    """Long repetitions, a quarter of the data and the least averages: beyond half of the time."""
    found = scanner()
    objective = Objective(linear(np.eye(3)), found.patient)
    search = acquirable._Search(found, acquirable.Errors(objective, None, "HU", 1.0))
    row = next(n for n, row in enumerate(search.rows) if row.time == 0.5)
    v = values(found, repetition=0.8, gating=-1.0)
    minutes = float(found.protocol(search.settled(v, search.rows[row])).minutes(knobs.LINES))
    over = minutes / (0.5 * float(search.still)) - acquirable.OVER
    loss, slope = search.value_and_gradient(v[None], torch.tensor([row]))
    assert over > 1 and float(loss) > over
    assert slope[0, protocol.REPETITION] > 0 > slope[0, protocol.GATING]


def test_bone_need_not_be_enhanced_for_a_network_that_looks_elsewhere():
    """It copies the fat fraction alone, of which bone holds nothing, whatever the echo."""
    found = scanner(snr=math.inf)
    steep = found.images(values(found, flip=0.6)).detach()
    rows, _, words = table(found, steep[:, 1:2], linear([[0.0, 1.0, 0.0]]), steep)
    assert "as it was trained: no." in words["bone"]
    for name, place in (("all", "mae"), ("for bone", "bone")):
        free, dark = (rows[f"{name}, 1 x the time{more}"] for more in ("", ", no short echo"))
        assert free[place] <= dark[place] + 1e-3


def test_free_voxels_are_those_of_a_search_at_any_price():
    """Near the patient's images a copy stops short; the gain that counts is the whole one."""
    rng = np.random.default_rng(0)
    patient = (0.5 + 0.02 * rng.normal(size=(1, 20, 22))).astype(np.float32)
    volumes = {"mr": volume(patient), "ct": volume(patient + 0.1)}
    near = {"near": 100.0, "max_evaluations": 60}
    result = run(volumes, model(linear([[1.0]])), knobs=True, **near)
    columns = list(result.tables["acquirable"].columns.values())
    error = dict(zip(columns[0], columns[3]))
    found = result.facts["error"]
    assert error["the ideal input of this run"] == pytest.approx(found["patient"], rel=1e-4)
    assert error["free voxels"] < 0.02 * found["own"] < 0.5 * found["patient"]
    assert dict(zip(columns[0], columns[-1]))["free voxels"] == 100


def test_a_free_search_changes_only_what_may_change():
    patient = torch.full((2, 1, 12, 12), 0.5)
    free = torch.zeros_like(patient)
    free[..., :6] = 1
    objective = Objective(lambda x: x, patient + 0.2)
    found = acquirable.freed(patient, free, objective, Progress())
    assert torch.equal(found[..., 6:], patient[..., 6:])
    torch.testing.assert_close(found[..., :6], patient[..., :6] + 0.2, atol=2e-3, rtol=0)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_table_of_a_run(dimensions):
    """Through ``ideal_input``: on the region and the images of the run, against its best start."""
    patient = smooth((4, 20, 22), 1, 0.3, 0.7)
    shaded = patient * np.exp(0.2 * np.linspace(-1, 1, 22, dtype=np.float32))
    volumes = {"mr": volume(patient), "ct": volume(shaded)}
    result = run(
        volumes,
        model(linear([[1.0]], dimensions=dimensions), dimensions=dimensions),
        knobs=True,
        starts=("zeros", "patient"),
    )
    columns = list(result.tables["acquirable"].columns.values())
    found = dict(zip(columns[0], zip(columns[3], columns[4])))
    assert found["none (patient's own input)"] == (
        pytest.approx(result.facts["error"]["own"], rel=1e-4),
        0.0,
    )
    best = min(result.facts["error"][start] for start in ("zeros", "patient"))
    assert found["free voxels"][0] == pytest.approx(best, rel=1e-3, abs=1e-6)
    assert found["receive field"][1] > 90
    assert "echo time" not in found, "without fat and water the contrast stays"
