"""The colours that the tiny vision model knows, as red, green and blue."""

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 190, 50),
    "blue": (30, 60, 220),
    "yellow": (235, 220, 40),
    "black": (15, 15, 15),
    "white": (240, 240, 240),
}
