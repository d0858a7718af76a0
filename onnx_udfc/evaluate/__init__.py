"""Two networks compared: check, report, attribution, validation; knows no method."""
