"""Pages to look at and listen to, and charts: what people open in a browser.

listening      signals to a page that plays them, with waveforms and spectrograms
charts         arrays to pictures: spectrograms, curves, bars
of_clip        a clip of some shards
of_trial       a trial of a search: its curves, a spectrogram, a page
of_recording   a separated recording
of_comparison  the cells of an experiment: tables, a chart, plots of their axes
of_cells       the same excerpt of every cell, switched in step and rated
"""
