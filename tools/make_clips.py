"""Make the clips that ship with the package: the four camera views, small.

    python tools/make_clips.py FOLDER

FOLDER holds cam01.mp4 … cam04.mp4 and their LICENSE, from the demonstration data of Pose2Sim.
"""
import shutil
import sys
from pathlib import Path

from lrprop.video import VideoFile
from lrprop.writing import write_video

README = """Four synchronised views of one balance exercise: 100 frames, 60 a second; frame i of one is frame i of the others.
Source: the demonstration data of Pose2Sim (https://github.com/perfanalytics/pose2sim), BSD-3-Clause, see LICENSE.
Changed here: made smaller (320x180) and encoded anew by tools/make_clips.py.
"""


def main(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob('cam0*.mp4')):
        view = VideoFile(path, size=(320, 180))
        frames = (frame for i in range(0, len(view), 10) for frame in view[i:i + 10])
        written = write_video(target / path.name, frames, fps=round(view.fps), crf=24)
        print(written.name, len(view), 'frames,', written.stat().st_size, 'bytes')
    shutil.copyfile(source / 'LICENSE', target / 'LICENSE')
    (target / 'README').write_text(README, encoding='utf-8')


if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(__file__).parent.parent / 'lrprop/clips/four_cameras')
