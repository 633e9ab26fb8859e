"""Crops in a folder per class, as torchvision's ImageFolder takes them, turned into the competition's files."""

from pathlib import Path

import pandas as pd
from tqdm import tqdm

from nuclei.data.competition import assign_roles, competition_writer
from nuclei.data.images import SUFFIXES, decode, require_crop, require_utf8
from nuclei.data.png import LARGEST, SMALLEST
from nuclei.data.tables import MOST_CROPS
from nuclei.errors import InputError, show
from nuclei.task import LONGEST_CLASS, MOST_CLASSES, is_class_name


def import_folders(folder: Path, out: Path, test_share: float, seed: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Write the competition's four files from FOLDER/CLASS/crop.png or FOLDER/CLASS/GROUP/crop.png.

    Args:
        folder: Of the classes. PNG, JPEG and TIFF of one size count, other files do not; names that begin with a dot
            are passed over.
        out: New folder.
        test_share: Share of the crops of each class that becomes test.zip; at least one of each.
        seed: Of what is drawn for it.

    Returns:
        One row per crop: path, label (the name of its folder), group where all have one, role, number; and the classes,
        by the alphabet.

    Raises:
        InputError: Names the file; nothing is written.
    """
    table = _list_crops(folder)
    classes = tuple(sorted(table.label.unique(), key=str.casefold))
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise InputError(f"{folder}: {len(classes)} folders with crops, expected one per class, 2 to {MOST_CLASSES}")
    spellings: dict[str, str] = {}
    for name in classes:
        if not is_class_name(name):
            raise InputError(
                f"{folder}: a folder {show(name)}, expected the name of a class, of {LONGEST_CLASS} letters at most, "
                "without a semicolon or space around it: rename it"
            )
        other = spellings.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(f"{folder}: folders {other} and {name} are one class: put their crops together")
    for name, count in table.label.value_counts().items():
        if count < 2:
            raise InputError(f"{folder / str(name)}: {count} crop, expected two or more: add some")
    table = assign_roles(table, test_share, seed)
    side = 0
    with competition_writer(out, table) as add, tqdm(total=len(table), unit="crop", disable=None) as bar:
        for row in table.itertuples():
            pixels = decode(row.path, str(row.path))
            height, width = pixels.shape[:2]
            side = side or height
            if height != width or not SMALLEST <= side <= LARGEST or height != side:
                expected = f"{side}x{side} like the first crop" if height == width else "a square"
                raise InputError(
                    f"{row.path}: {width}x{height} pixels, expected {expected}, {SMALLEST} to {LARGEST} pixels a side"
                )
            add(row.role, row.number, pixels)
            bar.update()
    return table, classes


def _list_crops(folder: Path) -> pd.DataFrame:
    rows = []
    for path in sorted(folder.glob("*/**/*")):
        parts = path.relative_to(folder).parts
        if len(parts) > 1 and path.is_symlink() and path.is_dir():  # its crops would not be seen
            raise InputError(f"{path}: a link to a folder: put the folder itself there")
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in parts) or path.is_dir():
            continue
        require_utf8(str(path.relative_to(folder)), str(folder))
        require_crop(path)
        if len(parts) > 3:
            raise InputError(f"{path}: expected CLASS/crop or CLASS/GROUP/crop below {folder}: move it")
        rows.append((path, parts[0], parts[1] if len(parts) == 3 else ""))
        if len(rows) > MOST_CROPS:
            raise InputError(f"{folder}: more than {MOST_CROPS:,} crops: hand in fewer")
    if not rows:
        raise InputError(f"{folder}: no crop in it: expected a folder for each class, with PNG, JPEG or TIFF crops")
    table = pd.DataFrame(rows, columns=["path", "label", "group"])
    without = table[table.group == ""]
    if 0 < len(without) < len(table):
        raise InputError(f"{without.path.iloc[0]}: no folder of a group, as other crops have: give all one, or none")
    return table.drop(columns="group") if len(without) else table
