"""Frames of the clips that the tests train on."""
import numpy as np


def moving_square(n, speed, shift):
    for i in range(n):
        frame = np.full((48, 64, 3), 90, 'uint8')
        x = int(40 * (i / (n - 1))**speed)
        frame[10 + shift:26 + shift, x:x + 16] = (250, 200, 40)
        yield frame
