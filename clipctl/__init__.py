"""The babysitter of very large CLIP training runs on Slurm supercomputers."""

__version__ = "0.1.0"
