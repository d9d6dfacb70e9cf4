"""slurmtune: hyperparameter optimisation of timm image models on SLURM clusters."""
