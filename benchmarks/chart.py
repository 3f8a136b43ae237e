"""A line chart as SVG, by the standard library: axes on logarithmic scales, a legend, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Final
from xml.etree import ElementTree as Xml

WIDTH: Final = 820
HEIGHT: Final = 420
LEFT: Final = 70
RIGHT: Final = 250
TOP: Final = 24
BOTTOM: Final = 56
COLOURS: Final = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e6c8a", "#b8860b", "#555555")


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y), all positive; ``dashed`` sets a line apart."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def svg(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """The whole chart. Raises ValueError when there is no point."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if not xs:
        raise ValueError("a chart needs points")
    plot = _Plot((floor(log10(min(xs))), ceil(log10(max(xs)))), (floor(log10(min(ys))), ceil(log10(max(ys)))))
    root = Xml.Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
        attrib={"font-family": "sans-serif", "font-size": "12"},
    )  # fmt: skip
    Xml.SubElement(root, "title").text = title
    Xml.SubElement(root, "rect", width=str(WIDTH), height=str(HEIGHT), fill="#ffffff")
    _axes(root, plot, x_name, y_name)
    for number, line in enumerate(lines):
        _line(root, plot, line, number)
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode") + "\n"


@dataclass(frozen=True, slots=True)
class _Plot:
    """From figures to places; both scales run over whole powers of ten."""

    x_powers: tuple[int, int]
    y_powers: tuple[int, int]

    def x(self, value: float) -> float:
        low, high = self.x_powers
        return round(LEFT + (log10(value) - low) / max(1, high - low) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.y_powers
        return round(HEIGHT - BOTTOM - (log10(value) - low) / max(1, high - low) * (HEIGHT - TOP - BOTTOM), 1)


def _axes(root: Xml.Element, plot: _Plot, x_name: str, y_name: str) -> None:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for power in range(plot.x_powers[0], plot.x_powers[1] + 1):
        x = plot.x(10.0**power)
        _stroke(root, x, TOP, x, bottom, "#dddddd")
        _text(root, x, bottom + 18, f"{10**power:,}" if power >= 0 else f"{10.0**power:g}", "middle")
    for power in range(plot.y_powers[0], plot.y_powers[1] + 1):
        y = plot.y(10.0**power)
        _stroke(root, LEFT, y, right, y, "#dddddd")
        _text(root, LEFT - 8, y + 4, f"{10**power:,}" if power >= 0 else f"{10.0**power:g}", "end")
    _text(root, (LEFT + right) / 2, HEIGHT - 14, x_name, "middle")
    _text(root, LEFT - 8, TOP - 8, y_name, "start")


def _line(root: Xml.Element, plot: _Plot, line: Line, number: int) -> None:
    colour = COLOURS[number % len(COLOURS)]
    style = {"fill": "none", "stroke": colour, "stroke-width": "2"} | (
        {"stroke-dasharray": "6 4"} if line.dashed else {}
    )
    places = " ".join(f"{plot.x(x)},{plot.y(y)}" for x, y in line.points)
    Xml.SubElement(root, "polyline", points=places, attrib=style)
    y = TOP + 12 + 20 * number
    Xml.SubElement(root, "polyline", points=f"{WIDTH - RIGHT + 14},{y - 4} {WIDTH - RIGHT + 40},{y - 4}", attrib=style)
    _text(root, WIDTH - RIGHT + 46, y, line.name, "start")


def _stroke(root: Xml.Element, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
    Xml.SubElement(root, "line", x1=str(x1), y1=str(y1), x2=str(x2), y2=str(y2), stroke=colour)


def _text(root: Xml.Element, x: float, y: float, text: str, anchor: str) -> None:
    Xml.SubElement(root, "text", x=str(x), y=str(y), attrib={"text-anchor": anchor}).text = text
