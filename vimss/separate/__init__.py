"""A recording in; one WAV per label and a page to look at and listen to out.

separated = separate_recording(Path("quartet.mp4"), model_folder, Path("stems/quartet"), instruments="vn,vn,va,vc")
separated.stems["vn"]  # both violins; a model conditioned on labels cannot tell them apart
"""

from vimss.separate.folder import folder_name
from vimss.separate.named import InstrumentsFrom
from vimss.separate.separation import DEFAULTS, Options, Reports, Separated, separate_recording

__all__ = ["DEFAULTS", "InstrumentsFrom", "Options", "Reports", "Separated", "folder_name", "separate_recording"]
