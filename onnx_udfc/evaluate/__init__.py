"""Two networks compared: check, report, attribution, validation; knows no method."""

__all__ = [
    "attribution", "final_check", "html", "inspection", "movement", "page", "parts", "report", "scatter", "speed",
    "validate", "validation_page", "verdict", "wording",
]  # fmt: skip
