"""What launch/doctor.py knows of a site: the environment here, the storage, SLURM, and one or two hosts by a short job.

Everything that is found is an error or a warning of hpo.check.findings, and says what to do about it.
"""
