"""Makes what is written for a release: distributions, pages and keywords of options, pictures, the package's data."""
