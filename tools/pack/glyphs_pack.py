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
VOICED = (
    "がぎぐげござじずぜぞだぢづでどばびぶべぼぱぴぷぺぽぁぃぅぇぉっゃゅょ"
    "ガギグゲゴザジズゼゾダヂヅデドバビブベボパピプペポヴァィゥェォッャュョー"
)
KANJI = (
    "日一国会人年大十二本中長出三同時政事自行社見月分議後前民生連五発間対上部東者党地合市業内相方四定今回新場金員九入選立開手米力学"
    "問高代明実円関決子動京全目表戦経通外最言氏現理調体化田当八六約主題下首意法不来作性的要用制治度務強気小七成期公野協取都和統以機平"
    "総加山思家話世受区領多県続進正安設保改数記院女初北午指権心界支第産結百派点教報済書府活原先共得解名交資予川向際査勝面委告軍文反元"
    "重近千考判認画海参売利組知案道信策集在件団別物側任引使求所次水半品昨論計死官増係感特情投示変打男基私各始島直両朝革価式確村提運終"
)
TRADITIONAL = (
    "的一是不了人我在有他這為之來大以個中上們到說國和地也子時道出而要於就下得可你年生自會那後能對著事其裡所去行過家十用發天如然作方成"
    "者多日都三小軍二無同麼經法當起與好看學進種將還分此心前面又定見只主沒公從知使本長動現聲問樣最開意書業體電車門馬東風頭點話讀寫員"
    "買賣錢錯華萬區醫藥術應實際報紙機場號線網絡關係總統選舉議員權戰爭義務資產銀價僅單雙廣團園圖館樓燈飛魚鳥龍龜語讓認識許論設計訊"
    "記試詞課請諸變邊達運遊遠還郵部鄉鐵鋼長門間陽隊階隨險難電靈靜響頁順須領題顏類飯養餘駐騎驗驚髮體鬥麗黃點黨齊齡歷歲歸殺氣決沒況"
)
HANGUL = (
    "이다는을의에가하고지도한를로그사기리아나어자들서은있시것대수정인게일라해만보부구전제상면장원적여스오주과세성안마공연관소요유국조저"
    "비거음생각때말우동무내년물방회할문학신모경교용식실선명산미간결계업화노치당발체강외입출통속드르니습까네데야금반양민운역영바두배집차"
    "타파하코터트프크스즈레파카디포티토테키플페퍼글길김남녀높눈늘달더던되된될둘뒤등따땅또뜻많맞매머먹며명목몸못밝받밤백버번법변별병복본"
    "봄북분불빛뿐살새색석섬손송술숨숲승심싸쓰씨앞약얼없었였옛왕욕움위육으응일잎작잠재점접종좋죽준중즉증질찾책처천철첫청초최추충친코크"
)
CYRILLIC = "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюяЁёЄєІіЇїҐґ0123456789"  # noqa: RUF001
GREEK = "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩαβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώ0123456789"  # noqa: RUF001
MARKS = "，。、：；？！（）《》—…“”"  # noqa: RUF001
DEJAVU, LIBERATION, NOTO = (
    "debian:fonts-dejavu-core=2.37-6",
    "debian:fonts-liberation2=2.1.5-1",
    "debian:fonts-noto-cjk=1:20220127+repack1-1",
)
FACES: tuple[tuple[str, str, str, str, int], ...] = (
    ("DejaVuSans", DEJAVU, "truetype/dejavu/DejaVuSans.ttf", LATIN, 0),
    ("DejaVuSans-Bold", DEJAVU, "truetype/dejavu/DejaVuSans-Bold.ttf", LATIN, 0),
    ("DejaVuSansMono", DEJAVU, "truetype/dejavu/DejaVuSansMono.ttf", LATIN, 0),
    ("DejaVuSerif", DEJAVU, "truetype/dejavu/DejaVuSerif.ttf", LATIN, 0),
    ("LiberationSans", LIBERATION, "truetype/liberation2/LiberationSans-Regular.ttf", LATIN, 0),
    ("LiberationSans-Bold", LIBERATION, "truetype/liberation2/LiberationSans-Bold.ttf", LATIN, 0),
    ("LiberationSans-Italic", LIBERATION, "truetype/liberation2/LiberationSans-Italic.ttf", LATIN, 0),
    ("LiberationSerif", LIBERATION, "truetype/liberation2/LiberationSerif-Regular.ttf", LATIN, 0),
    ("NotoSansCJK", NOTO, "opentype/noto/NotoSansCJK-Regular.ttc", HAN + KANA + MARKS, 2),
    ("NotoSerifCJK-Bold", NOTO, "opentype/noto/NotoSerifCJK-Bold.ttc", HAN + MARKS, 2),
    ("Japanese-Sans", NOTO, "opentype/noto/NotoSansCJK-Regular.ttc", KANA + VOICED + KANJI + MARKS, 0),
    ("Japanese-Serif", NOTO, "opentype/noto/NotoSerifCJK-Bold.ttc", KANA + VOICED, 0),
    ("Korean-Sans", NOTO, "opentype/noto/NotoSansCJK-Regular.ttc", HANGUL, 1),
    ("Traditional-Sans", NOTO, "opentype/noto/NotoSansCJK-Regular.ttc", TRADITIONAL + MARKS, 3),
    ("Cyrillic-Sans", DEJAVU, "truetype/dejavu/DejaVuSans.ttf", CYRILLIC, 0),
    ("Cyrillic-Serif", LIBERATION, "truetype/liberation2/LiberationSerif-Regular.ttf", CYRILLIC, 0),
    ("Greek-Sans", DEJAVU, "truetype/dejavu/DejaVuSans.ttf", GREEK, 0),
)  # name, package, file, characters, place in a collection: Japanese, Korean, Chinese, traditional Chinese


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the packages are, or are put")
    folder = parser.parse_args().folder
    arrays: dict[str, NDArray[Any]] = {}
    for name, package, file, characters, place in FACES:
        characters = "".join(dict.fromkeys(characters))
        path = unpacked(package, folder) / "usr" / "share" / "fonts" / file
        font = ImageFont.truetype(str(path), SIZE, index=place)
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
