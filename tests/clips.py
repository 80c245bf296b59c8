"""The clips that the tests train on, and what a folder holds."""
import numpy as np

from lrprop.writing import write_video


def moving_square(n, speed, shift):
    for i in range(n):
        frame = np.full((48, 64, 3), 90, 'uint8')
        x = int(40 * (i / (n - 1))**speed)
        frame[10 + shift:26 + shift, x:x + 16] = (250, 200, 40)
        yield frame


def write_clips(folder, shortest=16, step=2):
    "Eight clips of the square, each longer than the last and at another pace."
    folder.mkdir()
    for i in range(8): write_video(folder/f'{i}.mp4', moving_square(shortest + step*i, .6 + .2*i, i))
    return folder


def contents(folder, pattern='**/*'): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.glob(pattern)) if p.is_file()}
