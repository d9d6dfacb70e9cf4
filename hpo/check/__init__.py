"""The check room: what can be said against a sweep before anything is submitted, in seconds, on the login node.

preflight   all checks in their order: what check.py shows and submit.py heeds
findings    what was found, and which of it forbids to submit
settings    searcher, rungs, batches, metric: of the sweep file alone
dataset     the data: whole, readable, visible to jobs          storage   the sweep's directory: writable, with room
resources   one trial in one host
site        partition, account, QoS, GPUs, time, by SLURM's own answers (controller)
corners     which kinds of model the space can ask for, and how often
models      can each be built, and where are weights? asks a process with torch (builder, build), and remembers

Standard library only; build alone imports torch.
"""
