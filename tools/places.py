"""Where things stand: the repository, its models, and the folder of assets beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
SHARED = ROOT.parent / "shared"
ASSETS = SHARED / "assets"
REALNETS = SHARED / "realnets"
