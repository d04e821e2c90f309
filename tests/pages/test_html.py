"""The building blocks of the HTML pages: escaping, structure, colors."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from edgesparse.pages.html import (
    STYLE,
    Bar,
    Html,
    Row,
    bars,
    bullets,
    details,
    document,
    heading,
    key,
    millions,
    number,
    pairs,
    paragraph,
    percent,
    state_cell,
    table,
    tiles,
)

VOID = {"meta", "!doctype"}


class Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def test_every_element_is_closed_and_every_text_escaped() -> None:
    hostile = '<script>"&'
    page = document(
        hostile,
        heading(hostile) + paragraph(hostile, "soft") + bullets([hostile]) + details(hostile, paragraph(hostile)),
        tiles([(hostile, hostile)]) + pairs([(hostile, hostile)]),
        table((hostile, "n"), [Row((hostile, "1"), "l0", "chosen"), (hostile, "2")], (1,)),
        bars(hostile, [Bar(hostile, "sparse", 1)]) + key([("sparse", hostile)], hostile) + state_cell("dense", hostile),
    )
    parser = Balance()
    parser.feed(page)
    assert not parser.opened and "<script" not in page and 'href="#l0"' in page and 'id="l0"' in page


def test_markup_is_not_escaped_twice_and_numbers_align_right() -> None:
    drawn = table(
        (
            Html(
                "&micro;s",
            ),
            "b",
        ),
        [("1", "x")],
        (0,),
        "small",
    )
    assert drawn.startswith('<table class="small">')
    assert '<th class="n">&micro;s</th><th>b</th>' in drawn and '<td class="n">1</td><td>x</td>' in drawn


@pytest.mark.parametrize("heights", [[], [0, 0], [1, 4]])
def test_the_highest_bar_fills_the_plot(heights: list[float]) -> None:
    drawn = re.findall(r"height:([\d.]+)%", bars("", [Bar("", "dense", height) for height in heights]))
    assert [float(height) for height in drawn] == [100 * height / (max(heights) or 1) for height in heights]


def test_each_state_has_a_color_in_both_schemes() -> None:
    light, dark = STYLE.split("prefers-color-scheme:dark", 1)
    assert all(f"--{state}:" in light for state in ("sparse", "dense", "ineligible"))
    assert "--sparse:" in dark and "--dense:" in dark


def test_numbers_in_words() -> None:
    assert (number(1234.56), number(None), number(None, missing="")) == ("1,234.6", "-", "")
    assert (percent(0.1234), percent(None), millions(2_500_000)) == ("12.34", "-", "2.5")
