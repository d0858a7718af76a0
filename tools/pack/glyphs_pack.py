"""Makes the letters that ship with the package: bitmaps of free fonts, for rendered text.

    python -m tools glyphs_pack FOLDER

fetches Debian's font packages that FOLDER lacks and writes `onnx_udfc/inputs/data/glyphs.xz`: for every face one strip
of all its characters, side by side, in sixteen shades, and their widths. Needs Pillow with FreeType.
"""

from __future__ import annotations

import argparse
import io
import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from onnx_udfc.inputs.glyphs import BASELINE, HEIGHT, SHADES
from tools.pack.pictures_pack import DATA, unpacked

SIZE = 28  # pixels of an em
LATIN = "".join(map(chr, range(33, 127))) + "ÄÖÜäöüßéèêàáâçñóíúøåæ£€§°±×«»¿¡"
HAN = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去"
    "法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点"
    "正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿"
    "原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德"
    "资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交"
    "规万取拉格望觉术领共确传师观清今切院让识候带导争运"
)
KANA = (
    "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん"
    "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワヲン"
)
MARKS = "，。、：；？！（）《》—…“”"  # noqa: RUF001
DEJAVU, LIBERATION, NOTO = (
    "debian:fonts-dejavu-core=2.37-6",
    "debian:fonts-liberation2=2.1.5-1",
    "debian:fonts-noto-cjk=1:20220127+repack1-1",
)
FACES: tuple[tuple[str, str, str, str], ...] = (
    ("DejaVuSans", DEJAVU, "truetype/dejavu/DejaVuSans.ttf", LATIN),
    ("DejaVuSans-Bold", DEJAVU, "truetype/dejavu/DejaVuSans-Bold.ttf", LATIN),
    ("DejaVuSansMono", DEJAVU, "truetype/dejavu/DejaVuSansMono.ttf", LATIN),
    ("DejaVuSerif", DEJAVU, "truetype/dejavu/DejaVuSerif.ttf", LATIN),
    ("LiberationSans", LIBERATION, "truetype/liberation2/LiberationSans-Regular.ttf", LATIN),
    ("LiberationSans-Bold", LIBERATION, "truetype/liberation2/LiberationSans-Bold.ttf", LATIN),
    ("LiberationSans-Italic", LIBERATION, "truetype/liberation2/LiberationSans-Italic.ttf", LATIN),
    ("LiberationSerif", LIBERATION, "truetype/liberation2/LiberationSerif-Regular.ttf", LATIN),
    ("NotoSansCJK", NOTO, "opentype/noto/NotoSansCJK-Regular.ttc", HAN + KANA + MARKS),
    ("NotoSerifCJK-Bold", NOTO, "opentype/noto/NotoSerifCJK-Bold.ttc", HAN + MARKS),
)
SIMPLIFIED = 2  # place of the Chinese face in Noto's collections


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the packages are, or are put")
    folder = parser.parse_args().folder
    arrays: dict[str, NDArray[Any]] = {}
    for name, package, file, characters in FACES:
        path = unpacked(package, folder) / "usr" / "share" / "fonts" / file
        font = ImageFont.truetype(str(path), SIZE, index=SIMPLIFIED if file.endswith(".ttc") else 0)
        drawn = [glyph(font, c) for c in characters]
        arrays[f"{name}.strip"] = np.concatenate(drawn, axis=1)
        arrays[f"{name}.characters"] = np.array([ord(c) for c in characters], np.uint32)
        arrays[f"{name}.widths"] = np.array([d.shape[1] for d in drawn], np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    path = DATA / "glyphs.xz"
    path.write_bytes(lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    print(sum(len(f[3]) for f in FACES), "glyphs", path.stat().st_size, "bytes")
    return 0


def glyph(font: ImageFont.FreeTypeFont, character: str) -> NDArray[np.uint8]:
    """A character's bitmap (HEIGHT, advance) in SHADES shades."""
    width = max(1, round(font.getlength(character)))
    image = Image.new("L", (width, HEIGHT))
    ImageDraw.Draw(image).text((0, BASELINE), character, font=font, fill=255, anchor="ls")
    return np.rint(np.asarray(image) * ((SHADES - 1) / 255)).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
