"""The AutoMM face: AutoGluon's calls on top of everything else. Importing it costs nothing; Ray is never imported here.

predictor   MultiModalPredictor                 document   its arguments -> a sweep file's content; presets
samples     any table or folder of images       frames     a table's columns and what each is
labels      problem type, classes, targets
datasets    samples -> shards, once             metrics    scores by name, with numpy
handle      a fit at work, here or on SLURM     voice      what it says meanwhile
single      one trial without Ray               outcome    from a sweep's directory to one model
record      the files of a predictor
"""
