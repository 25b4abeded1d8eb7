import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from vimss import media
from vimss.pages import charts, listening
from vimss.pages.charts import bars_png, curves_png, spectrogram_png
from vimss.pages.listening import Page, Table, Track, listening_page
from vimss.pages.of_clip import clip_page, write_clip_pages
from vimss.shards.clip import Clip, Player

RATE = 8000


def tone(seconds: float, level: float = 0.4, channels: int = 1) -> np.ndarray:
    wave = level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)
    return np.repeat(wave[None], channels, axis=0).astype(np.float32)


def make(*tracks: Track, **more: object) -> Page:
    # Fields by their names.
    return Page("A duet", "Two stems.", tracks, RATE, {"Model": "models:/x@champion"}, **more)  # type: ignore[arg-type]


def picture(png: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return np.asarray(pixels)


class Tags(HTMLParser):
    """All tags with their attributes, and a check that they are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "input", "img", "link", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def runs_its_own_alone(html: str, policy: str) -> bool:
    """Whether a policy names the digests of a page's two styles and its script, and no others."""
    for tag, count in (("style", 2), ("script", 1)):
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies]
        allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
        if len(bodies) != count or f"{tag}-src {allowed};" not in policy:
            return False
    return True


@pytest.fixture(scope="module")
def html() -> str:
    table = Table("Scores", ("stem", "SI-SDRi, dB"), (("vn", 7.314), ("cl", float("nan"))), ("SI-SDRi: as defined",))
    tracks = (
        Track("duet", tone(2.0), "mix"),
        Track("vn", tone(1.5), "estimate", "+7.3 dB"),
        Track("vn", tone(2.0), "reference"),
    )
    return listening_page(make(*tracks, limits=("It hears nothing above 4 kHz.",), tables=(table,), video=b"film"))


def test_a_page_is_well_formed_and_has_a_row_with_a_player_per_track(html: str) -> None:
    tags = Tags(html)
    assert tags.open == []
    rows = [attributes["class"] for tag, attributes in tags.found if tag == "li" and "class" in attributes]
    assert rows == ["track mix", "track estimate", "track reference"]
    assert sum(tag == "audio" and "controls" in attributes for tag, attributes in tags.found) == 3


def test_a_page_refers_to_nothing_outside_itself(html: str) -> None:
    links = [value for _, attributes in Tags(html).found for key, value in attributes.items() if key in {"src", "href"}]
    assert links and all(value and value.startswith("data:") for value in links)
    assert not re.search(r"https?://|url\(|@import", html)


def test_the_policy_allows_this_style_and_this_script_alone(html: str) -> None:
    policy = next(a["content"] for tag, a in Tags(html).found if tag == "meta" and "http-equiv" in a)
    assert policy and policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert runs_its_own_alone(html, policy)
    assert not re.search(r'\son\w+="|\sstyle="', html)


def test_names_from_strangers_are_shown_and_not_run() -> None:
    evil = '"><script>alert(1)</script>$title'
    table = Table(evil, (evil,), ((evil,),), (evil,))
    html = listening_page(
        Page(evil, evil, [Track(evil, tone(0.2), "mix", evil)], RATE, {evil: evil}, (evil,), (table,))
    )
    assert html.count("<script>") == 1 and Tags(html).open == []
    assert html.count("&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;$title") == 18


def test_the_players_hold_the_sound(html: str) -> None:
    sources = [a["src"] or "" for tag, a in Tags(html).found if tag == "audio"]
    audio, rate = media.decode_audio(base64.b64decode(sources[1].removeprefix("data:audio/wav;base64,")))
    assert rate == RATE and np.array_equal(audio, media.quantise(tone(1.5)))


def test_tracks_that_would_clip_are_turned_down_by_one_gain() -> None:
    html = listening_page(make(Track("a", tone(0.5, 2.0), "mix"), Track("b", tone(0.5, 1.0), "estimate")))
    sounds = [media.decode_audio(base64.b64decode(data))[0] for data in re.findall(r"audio/wav;base64,([^\"]+)", html)]
    assert np.abs(sounds[0].astype(int)).max() >= 32766
    assert np.abs(sounds[0] - 2.0 * sounds[1]).max() <= 2


def test_the_mix_is_heard_first_and_the_stems_wait(html: str) -> None:
    muted = re.findall(r'class="mute" type="button" aria-pressed="(\w+)"', html)
    assert muted == ["false", "true", "true"]


def test_every_control_has_a_name_for_those_who_do_not_see_it(html: str) -> None:
    for tag, attributes in Tags(html).found:
        if tag in {"audio", "video", "button"}:
            assert attributes.get("aria-label")
        if tag == "img":
            assert attributes.get("alt")
    assert html.count("<label>") == html.count('class="volume"') == 3


def test_limits_video_and_scores_stand_on_the_page(html: str) -> None:
    assert "<li>It hears nothing above 4 kHz.</li>" in html
    assert f'src="data:video/mp4;base64,{base64.b64encode(b"film").decode()}"' in html
    assert ">7.31</td>" in html and ">–</td>" in html and "<li>SI-SDRi: as defined</li>" in html


def test_a_page_without_video_limits_and_tables_has_no_empty_places() -> None:
    html = listening_page(make(Track("a", tone(0.5), "mix")))
    assert "<video" not in html and "Limits" not in html and "<table" not in html and Tags(html).open == []


def test_a_long_recording_is_cut_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PAGE_SECONDS", 1.0)
    html = listening_page(make(Track("a", tone(3.0), "mix")))
    (data,) = re.findall(r"audio/wav;base64,([^\"]+)", html)
    assert media.decode_audio(base64.b64decode(data))[0].shape == (1, RATE)
    assert "The page plays the first 1 s of 3 s." in html and 'max="1.000"' in html


def test_a_page_of_the_beginning_of_a_recording_says_how_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PAGE_SECONDS", 1.0)
    beginning = Track("a", tone(1.0), "mix")
    assert "The page plays the first 1 s of 90 s." in listening_page(make(beginning, whole_seconds=90.0))
    assert "The page plays" not in listening_page(make(beginning, whole_seconds=1.0))


def test_names_that_are_no_text_can_be_shown() -> None:
    name = "bell\x07, latin\udce9, tab\t"
    html = listening_page(Page(name, name, [Track(name, tone(0.2), "mix")], RATE, {name: name}))
    assert "<title>bell\N{REPLACEMENT CHARACTER}, latin\N{REPLACEMENT CHARACTER}, tab\t" in html
    assert html.encode("utf-8") and "\x07" not in html


def test_silence_and_a_single_sample_can_be_drawn() -> None:
    silent = Track("rests", np.zeros((2, 3 * RATE), np.float32), "estimate")
    html = listening_page(make(silent, Track("tick", np.ones((1, 1), np.float32), "mix")))
    assert html.count("<polygon") == 2


def test_the_strip_of_a_track_is_its_spectrogram_with_high_notes_above() -> None:
    wave = np.sin(2 * np.pi * 3000 * np.arange(RATE) / RATE)
    strip = picture(charts.strip_png(wave, RATE, "#3a92d2"))
    row = strip[:, 450, 3].argmax()
    expected = (1 - np.log(3000 / charts.LOWEST_HZ) / np.log(4000 / charts.LOWEST_HZ)) * (strip.shape[0] - 1)
    assert abs(row - expected) < 2 and strip[-1, 450, 3] == 0


def test_no_tone_falls_between_the_rows_of_a_spectrogram() -> None:
    hertz = np.arange(1013, 3950, 233)
    wave = np.sin(2 * np.pi * np.outer(hertz, np.arange(RATE) / RATE)).sum(axis=0)
    level, frequencies = charts.log_spectrogram(wave, RATE, (96, 50))
    rows = np.abs(np.log(frequencies[None] / hertz[:, None])).argmin(axis=1)
    assert level[rows, 25].min() > charts.RANGE_DB - 6


def test_pictures_have_their_size_and_are_the_same_each_time() -> None:
    first, second = (spectrogram_png(tone(1.0, channels=2), RATE, "a tone") for _ in range(2))
    assert first == second and picture(first).shape[:2] == (400, 900)
    curves = curves_png({"a": ([1.0, 2.0, 3.0], [0.1, 1.0, 10.0])}, "audio seconds", "loss")
    assert picture(curves).shape[:2] == (450, 800)


def test_sixteen_curves_can_be_told_apart() -> None:
    styles = {
        (charts.COLOURS[i % len(charts.COLOURS)], charts.LINES[i // len(charts.COLOURS) % len(charts.LINES)])
        for i in range(28)
    }
    assert len(styles) == 28
    assert picture(curves_png({str(i): ([0.0, 1.0], [float(i), 1.0]) for i in range(16)}, "x", "y")).shape[:2] == (
        450,
        800,
    )


def test_a_bar_that_is_not_known_is_left_out() -> None:
    both = picture(bars_png({"a": {"vn": 1.0, "cl": 2.0}, "b": {"vn": 1.5, "cl": 2.0}}, "dB"))
    half = picture(bars_png({"a": {"vn": 1.0, "cl": 2.0}, "b": {"vn": 1.5, "cl": float("nan")}}, "dB"))
    orange = [
        (np.abs(image[:, 450:640, :3].astype(int) - (0x00, 0x5E, 0xD5)).sum(axis=-1) < 30).sum()
        for image in (both, half)
    ]
    assert orange[0] > 1000 and orange[1] == 0


def test_the_template_is_shipped_beside_the_module() -> None:
    assert (Path(listening.__file__).parent / "page.html").is_file()


def test_a_name_with_dollars_is_drawn_as_it_is_and_no_formula():
    name = r"$\frac$"  # as a formula, it would be an error
    assert picture(bars_png({name: {name: 1.0}, "b": {name: 2.0}}, "dB", name)).any()
    assert picture(curves_png({name: ([1.0, 2.0], [1.0, 2.0])}, "x", "y", name)).any()
    assert picture(spectrogram_png(np.zeros((1, 8000), np.float32), 8000, name)).any()


def test_every_split_has_a_page_with_its_players_and_stems(small_manifest, tmp_path):
    written = write_clip_pages(small_manifest, str(tmp_path))
    assert [page.name for page in written] == [f"{split}.html" for split in small_manifest.splits]
    text = written[0].read_text(encoding="utf-8")
    assert "video/mp4" in text and "Not recordings of people" in text
    assert len(re.findall(r'<li class="track reference">', text)) >= 2
    assert re.search(r"-\d+\.\d dB against the mix, sf2", text)


def test_a_clip_without_stems_shows_its_recorded_mix_and_one_picture(small_manifest):
    picture = np.zeros((4, 32, 32, 3), np.uint8)
    players = (Player("vn", "1-vn", picture=picture), Player("vc", "2-vc", picture=picture.copy()))
    mix = np.full((1, 8000), 1000, np.int16)
    page = clip_page(Clip("p", 0, 8000, 8000, players, 4.0, mix), "test", small_manifest)
    assert [(track.name, track.note) for track in page.tracks] == [("mix", "as recorded")]
    assert page.facts["Players"] == "1-vn, 2-vc"
    assert page.video is not None
