"""Sound and video files to arrays and back; the home of av, soundfile and soxr.

    audio = read_audio(Path("quartet.mp4"), sample_rate=22050, channels=1)      # Float32 "c t" in [-1, 1]
    pictures = read_video(Path("quartet.mp4"), size=(96, 96), frame_rate=12.5)  # UInt8 "v h w 3"
    gain = write_wav(Path("vn.wav"), audio, sample_rate=22050)                  # int16, scaled where it would clip

Time zero is the start of the picture (of the sound, in files without picture), so that streams read from one file stay
aligned. The delay and padding of codecs such as AAC are removed. Reading is bounded: a file that decodes to
more than MAX_SECONDS of sound or MAX_PICTURE_BYTES of picture is refused during reading, no matter how small it is.
"""

from vimss.media.container import MAX_SECONDS
from vimss.media.facts import Probe, probe
from vimss.media.look import (
    Box,
    columns,
    decode_video,
    middle_square,
    read_crops,
    read_images,
    read_video,
)
from vimss.media.read import audio_blocks, decode_audio, read_audio
from vimss.media.report import Channel, SoundReport
from vimss.media.resample import resample
from vimss.media.write import (
    INT16_SCALE,
    encode_audio,
    encode_video,
    fitting_gain,
    quantise,
    write_video,
    write_wav,
)

__all__ = [
    "INT16_SCALE",
    "MAX_SECONDS",
    "Box",
    "Channel",
    "Probe",
    "SoundReport",
    "audio_blocks",
    "columns",
    "decode_audio",
    "decode_video",
    "encode_audio",
    "encode_video",
    "fitting_gain",
    "middle_square",
    "probe",
    "quantise",
    "read_audio",
    "read_crops",
    "read_images",
    "read_video",
    "resample",
    "write_video",
    "write_wav",
]
