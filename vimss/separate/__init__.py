"""A recording in; one WAV per label and a page to look at and listen to out.

separated = separate(Path("quartet.mp4"), model_folder, Path("stems/quartet"), instruments="vn,vn,va,vc")
separated.stems["vn"]  # both violins; a model that hears labels cannot tell them apart
"""

from vimss.separate.folder import folder_name
from vimss.separate.separation import DEFAULTS, Options, Separated, separate

__all__ = ["DEFAULTS", "Options", "Separated", "folder_name", "separate"]
