"""What the world around a road looks like: ground, road surface, sky, roadside and light, all drawn from a seed.

Colours are RGB, 0..255. Everything random comes from :meth:`numpy.random.Generator.random` and double precision alone,
so that a seed gives the same world with any release of NumPy and OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, List, Sequence, Tuple

import cv2
import numpy as np

from robostig.camera import FOCAL, HEIGHT_M
from robostig.simulation.track import LOOKS, Road

__all__ = ["Scenery", "Sprite", "make_scenery"]

Color = Tuple[float, float, float]

# The surface: colours across the road and along it, in bands one below the other: one for each level of detail of each
# section of the road. Level by level, what is further away is blurred more, as pixels there cover more ground.
SURFACE_REACH_M = 12.0  # to both sides of the centre line; beyond, the outermost colour goes on
ACROSS_M, ALONG_M = 0.04, 0.125  # a texel
PERIOD_M = 20.0  # after which the surface repeats, about: a whole number of times in a lap
LEVELS_M = (0.0, 6.0, 10.0, 16.0, 26.0, 45.0)  # distance from which each level is used
EDGE_LINE_M = 0.35  # from the road's edge to the middle of the line along it, where a road has lines
SECTIONS = 3  # different stretches of roadside on a lap

# The relief: light and dark patches of the ground, repeated over the whole world.
RELIEF_M, RELIEF_SIZE = 32.0, 256

SKY_ROWS = 76  # of the panorama, down to below the horizon
SKY_COLUMNS = 1024  # all around
SPRITE_SIZE = 160  # pixels, as they are drawn
SPRITE_STEP = 1.15  # between two sizes that are kept


@dataclass(frozen=True)
class Sprite:
    """A picture of something that stands beside the road, in sizes from far away to near.

    Parameters
    ----------
    height_m
        Of the thing.
    sizes
        Heights in pixels, ascending.
    pictures
        For each size (h, w, 3) uint8, already multiplied by how much of a pixel is covered.
    gaps
        For each size (h, w, 3) uint8: how much of what is behind shows through, 255 is all.
    """

    height_m: float
    sizes: np.ndarray
    pictures: Sequence[np.ndarray]
    gaps: Sequence[np.ndarray]


@dataclass(frozen=True)
class Scenery:
    """A world's textures, in its light; drawn by :class:`~robostig.simulation.renderer.Renderer`.

    Parameters
    ----------
    surface
        (bands x rows, columns, 3) uint8, see the constants above; each band has one row more than its period.
    period_m
        After how many metres along the road it repeats.
    sections
        (n,) number of the kind of roadside, for n equal parts of the lap.
    relief
        (levels x rows, columns) uint8 factors in 128ths; each level has one row and column more than its period.
    sky
        (SKY_ROWS, SKY_COLUMNS, 3) uint8: all around, clockwise.
    fog_color
        What the distance fades to.
    fog_m
        Distance at which two thirds are faded.
    bonnet
        Colour of the car.
    sprites
        What stands there.
    things
        (n, 3) number of the sprite, x and y in metres.
    """

    surface: np.ndarray
    period_m: float
    sections: np.ndarray
    relief: np.ndarray
    sky: np.ndarray
    fog_color: Color
    fog_m: float
    bonnet: Color
    sprites: Sequence[Sprite]
    things: np.ndarray


@dataclass(frozen=True)
class _Weather:
    light: np.ndarray  # factor of each colour
    sky_above: Color
    sky_below: Color
    fog_m: float
    clouds: float
    shadows: float


def make_scenery(road: Road) -> Scenery:
    """Draw the world of a road; the same for the same look and seed, in both directions."""
    generator = np.random.default_rng([list(LOOKS).index(road.look), road.seed, 2])
    weather = _draw_weather(generator)
    painter = _Painter(road, generator, weather)
    repeats = max(1, round(road.center.length_m / PERIOD_M))
    sections = (generator.random(12) * SECTIONS).astype(np.intp)
    surfaces = [_to_bytes(painter.paint_surface(section) * weather.light) for section in range(SECTIONS)]
    fog_color = _shade(weather.sky_below, weather)
    sprites, things = painter.plant(fog_color)
    return Scenery(
        surface=np.concatenate(
            [_blur_surface(surface, level) for surface in surfaces for level in range(len(LEVELS_M))]
        ),
        period_m=road.center.length_m / repeats,
        sections=sections,
        relief=painter.paint_relief(),
        sky=painter.paint_sky(),
        fog_color=fog_color,
        fog_m=weather.fog_m,
        bonnet=_shade(painter.draw_color((60, 60, 60), 110), weather),
        sprites=sprites,
        things=things,
    )


def _draw_weather(generator: np.random.Generator) -> _Weather:
    """Draw one of: clear, cloudy, overcast, hazy, evening."""
    kind, level = generator.random(), 0.85 + 0.3 * generator.random()
    if kind < 0.35:
        return _Weather(level * np.array([1.0, 1.0, 0.97]), (95, 140, 205), (190, 210, 230), 260.0, 0.1, 1.0)
    if kind < 0.6:
        return _Weather(level * np.array([1.0, 1.0, 1.0]), (110, 150, 205), (200, 212, 225), 220.0, 0.6, 0.7)
    if kind < 0.75:
        return _Weather(0.8 * level * np.array([0.97, 1.0, 1.04]), (150, 158, 168), (195, 200, 205), 160.0, 0.8, 0.3)
    if kind < 0.88:
        return _Weather(0.95 * level * np.array([1.0, 1.0, 1.0]), (180, 190, 198), (212, 216, 218), 75.0, 0.2, 0.4)
    return _Weather(0.8 * level * np.array([1.08, 0.97, 0.87]), (88, 96, 150), (240, 176, 120), 180.0, 0.4, 0.8)


class _Painter:
    """Paints one world; every method takes what it needs of the generator, always in the same order."""

    def __init__(self, road: Road, generator: np.random.Generator, weather: _Weather) -> None:
        self.road, self.generator, self.weather = road, generator, weather
        self.across = np.arange(-SURFACE_REACH_M, SURFACE_REACH_M + ACROSS_M / 2, ACROSS_M)
        self.rows = round(PERIOD_M / ALONG_M)
        look = road.look
        if look == "lake":
            self.asphalt, self.line = self.draw_color((112, 110, 106), 26), self.draw_color((210, 190, 90), 40)
            self.ground = [self.draw_color((156, 148, 82), 36), self.draw_color((92, 128, 58), 36)]
        elif look == "mountain":
            self.asphalt, self.line = self.draw_color((88, 88, 92), 26), self.draw_color((225, 222, 210), 24)
            self.ground = [self.draw_color((128, 116, 92), 36), self.draw_color((104, 108, 74), 36)]
        else:
            self.asphalt, self.line = self.draw_color((170, 138, 102), 34), self.draw_color((120, 92, 62), 20)
            self.ground = [self.draw_color((84, 112, 50), 30), self.draw_color((110, 116, 58), 30)]

    def draw_color(self, middle: Color, spread: float) -> Color:
        """Draw a colour near another: its brightness more than its hue."""
        light = (self.generator.random() - 0.5) * spread
        red, green, blue = (value + light + (self.generator.random() - 0.5) * spread * 0.5 for value in middle)
        return red, green, blue

    def paint_surface(self, section: int) -> np.ndarray:
        """Paint one period of the road and what is beside it: (rows, columns, 3) float, without the light."""
        shape, look, across, random = self.road.shape, self.road.look, self.across, self.generator.random
        along = np.arange(self.rows) * ALONG_M
        edge = shape.half_width_m
        size = (self.rows, len(across))
        fine, coarse, earth = (self.draw_noise(size, *grain) for grain in ((10.0, 1.6), (3.0, 12.0), (6.0, 4.0)))
        colors = np.empty((self.rows, len(across), 3))
        for side, beside in ((-1, across < 0), (1, across >= 0)):
            colors[:, beside] = self.ground[(section + (side > 0)) % 2]
        if look == "lake" and random() < 0.6:  # water on one side, behind a bank of sand
            side, shore = (1 if random() < 0.5 else -1), edge + 3.0 + 4.0 * random()
            colors[:, across * side > shore - 2.0] = self.draw_color((176, 150, 110), 30)
            colors[:, across * side > shore] = self.draw_color((104, 146, 188), 30)
        elif look == "mountain":
            rock = self.draw_color((138, 128, 118), 40)
            colors[:, across * (1 if random() < 0.5 else -1) > edge + 1.5 + 2.0 * random()] = rock
        colors += 12.0 * earth[..., None]
        wobble = 0.0 if look != "dirt" else 0.18 * self.draw_noise((self.rows, 1), 16.0, 0.0)
        road = np.abs(across[None] + np.zeros((self.rows, 1)) + wobble) < edge
        surface = np.asarray(self.asphalt) + (9.0 * fine + 5.0 * coarse)[..., None]
        if look == "dirt":
            for rut in (-0.85, 0.85):
                depth = np.exp(-0.5 * ((across[None] + wobble * 0.6 - rut) / 0.22) ** 2)
                surface = surface - 20.0 * depth[..., None]
            share = np.clip((edge - np.abs(across[None] + wobble)) / 0.8, 0.0, 1.0)[..., None]
            colors = colors + share * (surface - colors)
        else:
            shoulder = edge + 0.3 + 0.9 * random()
            gravel = np.asarray(self.draw_color((150, 140, 122), 40)) + 14.0 * fine[..., None]
            near = np.broadcast_to((np.abs(across) < shoulder)[None], road.shape)
            colors = np.where(near[..., None], gravel, colors)
            colors = np.where(road[..., None], surface, colors)
            self._paint_lines(colors, along, section)
        return colors

    def _paint_lines(self, colors: np.ndarray, along: np.ndarray, section: int) -> None:
        """Paint lines and kerbs onto asphalt."""
        across, edge, random = self.across, self.road.shape.half_width_m, self.generator.random
        kerb = self.road.look == "lake" and section == 1
        for side in (-1, 1):
            line = np.abs(across * side - (edge - EDGE_LINE_M)) < 0.075
            if self.road.look == "mountain" or not kerb or random() < 0.5:
                colors[:, line] = self.line
            if kerb:
                stripes = np.where(
                    (along // 1.25).astype(int)[:, None] % 2 == 0, (196.0, 60.0, 50.0), (228.0, 226.0, 220.0)
                )
                colors[:, np.abs(across * side - (edge + 0.3)) < 0.3] = stripes[:, None]
        if self.road.look == "mountain":
            yellow = self.draw_color((214, 178, 62), 20)
            if section == 2:  # two lines that must not be crossed
                colors[:, np.abs(np.abs(across) - 0.14) < 0.06] = yellow
            else:
                dashed = (along % (PERIOD_M / 2)) < 4.0
                middle = np.abs(across) < 0.075
                colors[np.ix_(dashed, middle)] = yellow if section else self.line

    def paint_relief(self) -> np.ndarray:
        """Paint patches of light and shade, in levels of detail below one another."""
        size = RELIEF_SIZE
        patches = 7.0 * self.draw_noise((size, size), 20.0) + 5.0 * self.draw_noise((size, size), 3.0)
        patches += 4.0 * self.draw_noise((size, size), 0.8)
        factor = 1.0 + patches / 100.0
        covered = {"lake": 0.06, "mountain": 0.24, "dirt": 0.12}[self.road.look]
        shade = self.draw_noise((size, size), 9.0) + 0.5 * self.draw_noise((size, size), 3.0)
        depth = 0.45 * self.weather.shadows * (0.6 + 0.4 * self.generator.random())
        edge = np.quantile(shade, 1.0 - covered)
        factor *= 1.0 - depth * np.clip((shade - edge) / 0.25 + 0.5, 0.0, 1.0)
        relief = _to_bytes(factor * 128.0)
        levels = []
        for level in range(len(LEVELS_M)):
            blur = 0.5 * sum(_measure_footprint(level)) / RELIEF_M * size  # roads run in all directions
            levels.append(np.pad(_blur(relief, blur, blur, "wrap"), ((0, 1), (0, 1)), mode="wrap"))
        return np.concatenate(levels)

    def paint_sky(self) -> np.ndarray:
        """Paint sky, clouds and three ranges of hills all around."""
        weather, above = self.weather, np.linspace(1.0, 0.0, SKY_ROWS)[:, None, None] ** 0.8
        sky = above * weather.sky_above + (1.0 - above) * np.asarray(weather.sky_below)
        clouds = self.draw_noise((SKY_ROWS * 2, SKY_COLUMNS), 5.0, 22.0)[:SKY_ROWS]
        share = np.clip((clouds + 2.2 * weather.clouds - 1.6) * 0.7, 0.0, 0.85)[..., None]
        sky = np.repeat(sky, SKY_COLUMNS, axis=1) if sky.shape[1] == 1 else sky
        sky = sky + share * (np.array([238.0, 240.0, 242.0]) - sky)
        rows = np.arange(SKY_ROWS)[:, None]
        tall = {"lake": 0.8, "mountain": 1.7, "dirt": 1.0}[self.road.look]
        ground = np.asarray(self.ground[0])
        for distance, height, width in ((0.75, 13.0, 34.0), (0.5, 8.0, 14.0), (0.2, 4.0, 3.0)):
            ridge = self.draw_noise((1, SKY_COLUMNS), 0.0, width)[0] * 0.6 + 0.7
            top = SKY_ROWS - 12.0 - np.maximum(ridge, 0.0) * height * tall
            color = ground * (0.55 + 0.3 * self.generator.random()) * (1.0 - distance)
            color = color + np.asarray(weather.sky_below) * distance
            texture = 6.0 * (1.0 - distance) * self.draw_noise((SKY_ROWS, SKY_COLUMNS), 1.5)
            sky = np.where((rows >= top)[..., None], color + texture[..., None], sky)
        return _to_bytes(sky * self.weather.light)

    def plant(self, fog_color: Color) -> Tuple[List[Sprite], np.ndarray]:
        """Draw what stands beside the road, and where."""
        sprites = [self._draw_sprite(kind, fog_color) for kind in _ROADSIDE[self.road.look]]
        center, edge = self.road.center, self.road.shape.half_width_m
        things = []
        for along in np.arange(0.0, center.length_m, 8.0):
            for side in (-1.0, 1.0):
                number = int(self.generator.random() * len(sprites))
                least = edge + 1.2 + 0.3 * sprites[number].height_m
                aside = least + 14.0 * self.generator.random() ** 1.5
                x, y, _ = center.point_at(along + 8.0 * self.generator.random(), side * aside)
                place = center.locate(x, y)
                if abs(place.aside_m) >= least - 0.2:  # not on another stretch of the road
                    things.append((float(number), x, y))
        return sprites, np.array(things).reshape(-1, 3)

    def _draw_sprite(self, kind: str, fog_color: Color) -> Sprite:
        """Draw a thing large, and shrink it."""
        random, height = self.generator.random, SPRITE_SIZE
        rough = self.draw_noise((height, height), 3.5)
        canvas, cover = np.zeros((height, height, 3)), np.zeros((height, height))
        place = (np.arange(height) + 0.5) / height

        def blob(x: float, y: float, width: float, tall: float, color: Color) -> None:
            """Add a rough ellipse; all shares of the canvas, from its middle and its foot."""
            across, up = (place[None] - 0.5 - x) / width, (1.0 - place[:, None] - y) / tall
            inside = across**2 + up**2 < (1.0 + 0.35 * rough) ** 2
            shade = 1.0 + 0.16 * rough + 0.14 * np.clip(up - across, -1.0, 1.0)
            canvas[inside] = (np.asarray(color) * shade[..., None])[inside]
            cover[inside] = 1.0

        leaf = self.draw_color((62, 88, 42), 34)
        if kind == "tree":
            meters, bark = 5.0 + 4.0 * random(), self.draw_color((84, 64, 46), 20)
            blob(0.0, 0.25, 0.03, 0.3, bark)
            for number in range(5):
                blob(0.16 * (random() - 0.5), 0.5 + 0.08 * number, 0.2 - 0.024 * number, 0.14, leaf)
        elif kind == "pine":
            meters, bark = 6.0 + 5.0 * random(), self.draw_color((80, 62, 48), 20)
            blob(0.0, 0.15, 0.025, 0.2, bark)
            for number in range(7):
                blob(0.0, 0.25 + 0.1 * number, 0.2 - 0.025 * number, 0.09, leaf)
        elif kind == "bush":
            meters = 0.8 + 1.2 * random()
            for _ in range(4):
                blob(0.4 * (random() - 0.5), 0.3 + 0.2 * random(), 0.26, 0.3, leaf)
        elif kind == "rock":
            meters, stone = 0.8 + 1.6 * random(), self.draw_color((132, 124, 114), 40)
            blob(0.0, 0.25, 0.4, 0.4, stone)
            blob(0.1, 0.5, 0.25, 0.25, stone)
        else:  # a post with a reflector
            meters, wide = 1.1, slice(height * 7 // 16, height * 9 // 16)
            canvas[:, wide], cover[:, wide] = 225.0, 1.0
            canvas[height // 7 : height // 3, wide] = (200.0, 60.0, 40.0) if random() < 0.5 else (40.0, 40.0, 44.0)
        sizes = np.unique(np.round(SPRITE_STEP ** np.arange(7, 60)).astype(int))
        sizes = sizes[sizes <= 1.3 * height]
        pictures, gaps = [], []
        columns = np.flatnonzero(cover.any(axis=0))
        inside = slice(int(columns[0]), int(columns[-1]) + 1)
        whole = np.ascontiguousarray(_to_bytes(np.dstack([canvas * cover[..., None], 255.0 * cover]))[:, inside])
        for size in sizes:
            width = max(1, round(size * whole.shape[1] / height))
            small = cv2.resize(whole, (width, int(size)), interpolation=cv2.INTER_AREA)
            seen = small[..., 3:] / 255.0
            faded = np.exp(-(FOCAL * meters / size) / self.weather.fog_m)  # at this size, it is so far away
            colors = faded * small[..., :3] * self.weather.light + (1.0 - faded) * np.asarray(fog_color) * seen
            pictures.append(_to_bytes(colors))
            gaps.append(np.repeat(255 - small[..., 3:], 3, axis=2))
        return Sprite(meters, sizes, pictures, gaps)

    def draw_noise(self, shape: Tuple[int, int], tall: float, wide: float = -1.0) -> np.ndarray:
        """Return smooth noise around 0, its deviation 1, its grains so many pixels large; it goes on over its edges."""
        steps = [int(self.generator.random() * size) for size in shape]
        return np.roll(_make_noise(shape, tall, tall if wide < 0 else wide), steps, axis=(0, 1))


@lru_cache(maxsize=32)
def _make_noise(shape: Tuple[int, int], tall: float, wide: float) -> np.ndarray:
    """Return noise that every world sees, each from another place on: as good as new, and quicker."""
    smooth = _blur_around(np.random.default_rng(shape).random(shape), tall, wide)
    return (smooth - smooth.mean()) / max(float(smooth.std()), 1e-9)


_ROADSIDE: Dict[str, Tuple[str, ...]] = {
    "lake": ("tree", "bush", "post", "pine"),
    "mountain": ("pine", "rock", "post", "bush"),
    "dirt": ("bush", "tree", "rock", "bush"),
}


def _measure_footprint(level: int) -> Tuple[float, float]:
    """Return how many metres of ground a pixel covers at a level of detail, along the view and across it."""
    distance = LEVELS_M[level]
    return distance**2 / (FOCAL * HEIGHT_M), distance / FOCAL


def _blur_surface(surface: np.ndarray, level: int) -> np.ndarray:
    """Return a surface as it is seen at a level of detail, with its first row again at the end."""
    ahead, aside = _measure_footprint(level)
    blurred = _blur(surface, 0.4 * ahead / ALONG_M, 0.4 * aside / ACROSS_M, "edge")
    return np.concatenate([blurred, blurred[:1]])


def _blur(picture: np.ndarray, tall: float, wide: float, beside: Any) -> np.ndarray:
    """Blur bytes by about so many pixels; rows go on in a ring, columns as ``beside`` says.

    Two means over whole pixels: unlike a Gaussian's, their sums are the same with any release of OpenCV.
    """
    kernel = [2 * round(1.2 * deviation) + 1 for deviation in (tall, wide)]
    if kernel == [1, 1]:
        return picture
    rest = [(0, 0)] * (picture.ndim - 2)
    padded = np.pad(picture, [(kernel[0], kernel[0]), (0, 0), *rest], mode="wrap")
    padded = np.pad(padded, [(0, 0), (kernel[1], kernel[1]), *rest], mode=beside)
    for _ in range(2):
        padded = cv2.blur(padded, (kernel[1], kernel[0]))
    return np.ascontiguousarray(padded[kernel[0] : -kernel[0], kernel[1] : -kernel[1]])


def _blur_around(values: np.ndarray, tall: float, wide: float) -> np.ndarray:
    """Blur (rows, columns) by a Gaussian with these deviations in pixels, over the edges as over a ring."""
    for axis, deviation in ((0, tall), (1, wide)):
        if deviation > 0.0 and values.shape[axis] > 1:
            frequency = np.fft.rfftfreq(values.shape[axis])
            keep = np.exp(-2.0 * (np.pi * deviation * frequency) ** 2)
            keep = keep[:, None] if axis == 0 else keep
            values = np.fft.irfft(np.fft.rfft(values, axis=axis) * keep, values.shape[axis], axis=axis)
    return values


def _shade(color: Color, weather: _Weather) -> Color:
    red, green, blue = np.clip(np.asarray(color) * weather.light, 0.0, 255.0)
    return float(red), float(green), float(blue)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
