"""Commands of the repository, in four folders: measure, train, check, pack; `python -m tools` lists and starts them."""
