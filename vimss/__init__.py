"""VIMSS: visually-informed music source separation as an experiment platform.

Shards say what data, experiments say what question, platform says where, vimss says how.
The stages, in the order in which data flows and modules import each other:

    shards -> stream -> model -> features -> train -> evaluate -> experiment -> search
           -> track -> promote -> separate

Below them lies the ground (errors, config, storage, runtime, media, metrics, page); on top the
command line (cli) and quickstart, which calls the verbs. Read one file per stage.

Axis letters, used by every tensor shape in this project:

    b batch    s source or output    c channel      t audio sample (input window)
    u audio sample (output window)   f frequency bin   n STFT frame
    p player   v video frame         h w pixels     i instrument (label)   d feature

From a notebook:

    import vimss
    stems = vimss.separate("quartet.mp4", model="models:/quickstart@champion")
"""

__version__ = "0.1.0"
