"""Studies: their parameters and files, the folders and manifests of results, and the launcher that runs the notebooks.

Nothing here imports torch when it is loaded: the launcher and Snakemake start at once.
"""
