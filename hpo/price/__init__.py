"""The price room: what a sweep will cost, from a few real updates and a simulation of its own scheduler.

measured    seconds and memory of each kind of trial: known from before, measured here, or by a short job (probe)
worlds      learning curves that could be: what the simulation lets trials report
forecast    the sweep simulated many times: work and wall time as a range, for numbers of hosts
start       when SLURM would start the job          quote   all of that for one sweep
page        the quote in a few lines (words)

Neither torch nor ray is imported: hpo.trial.pace measures in a process of its own.
"""
