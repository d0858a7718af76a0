"""Command-line tools of the repository: training, export, evaluation, tables of results."""
