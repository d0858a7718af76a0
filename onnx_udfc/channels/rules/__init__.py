"""What each operator does to channels: one row an operator in `table.py`."""
