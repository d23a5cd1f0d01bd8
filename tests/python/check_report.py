"""A training report as browsers and registries read it: well-formed, self-contained HTML; SVG that is XML; PNG that decodes.

A Rust test (`report::tests`) writes the report of a made-up training with hostile names. No browser is needed for this: it was looked at
in Chromium when it was designed, and what can break later (escaping, nesting, references, blank pictures) a parser finds.
"""

import html.parser
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
import zlib

VOID = {"meta", "link", "br", "hr", "img", "input"}
PICTURES = {"calibration", "confusion_matrix", "feature_importance", "precision_recall", "score_distribution", "threshold_curve"}


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.wrong, self.text, self.headings, self.pictures = [], [], [], [], 0

    def handle_starttag(self, tag, attributes):
        if tag in {"script", "iframe", "object", "embed", "link", "img"}:
            self.wrong.append(f"<{tag}> in line {self.getpos()[0]}")
        for name, value in attributes:
            # A name space is an identifier; nothing is loaded from it.
            if name != "xmlns" and (name.startswith("on") or "//" in (value or "")):
                self.wrong.append(f"{name}={value!r} in line {self.getpos()[0]}")
        self.pictures += tag == "svg"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> in line {self.getpos()[0]} closes {self.open[-1:] or 'nothing'}")
        else:
            self.open.pop()

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def check_page(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    wrong = page.wrong + [f"<{tag}> is never closed" for tag in page.open]
    wanted = {"Gate", "Beside the model in production", "What can be found, and what was", "Pictures", "Threshold",
              "Calibration", "By channel", "Data", "Record"}
    wrong += [f"no section {name!r}" for name in sorted(wanted - set(page.headings))]
    text = "".join(page.text)
    if '<script>alert("1")</script>&\'' not in text:
        wrong.append("the hostile name is not shown as it is")
    if page.pictures != len(PICTURES):
        wrong.append(f"{page.pictures} pictures in the page, expected {len(PICTURES)}")
    return wrong


def check_svg(path):
    root = xml.etree.ElementTree.parse(path).getroot()
    _, _, width, height = (float(number) for number in root.get("viewBox").split())
    wrong = []
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        # Rotated text says its place before it is turned. Half the font's size is a letter's width, roughly.
        x, size, content = float(text.get("x")), float(text.get("font-size")), (text.text or "").strip()
        length = 0.56 * size * len(content)
        left = {"start": x, "middle": x - length / 2, "end": x - length}[text.get("text-anchor")]
        if not text.get("transform") and not (-2 <= left and left + length <= width + 2):
            wrong.append(f"the text {content!r} goes from {left:.0f} to {left + length:.0f} in a width of {width:.0f}")
        if not 0 <= float(text.get("y")) <= height:
            wrong.append(f"the text {content!r} is outside of the picture")
    return wrong


def check_png(path):
    data = path.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return ["no PNG"]
    at, chunks = 8, {}
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if zlib.crc32(kind + body) != struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0]:
            return [f"the checksum of {kind} is wrong"]
        chunks[kind] = body
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    rows = zlib.decompress(chunks[b"IDAT"])
    if len(rows) != height * (1 + 3 * width):
        return [f"{len(rows)} bytes for {width} x {height} pixels"]
    pixels = [rows[row * (1 + 3 * width) + 1:(row + 1) * (1 + 3 * width)] for row in range(height)]
    dark = sum(red < 100 for row in pixels for red in row[::3])
    wrong = [] if 0.002 < dark / (width * height) < 0.5 else [f"{dark} dark pixels of {width * height}"]
    # Nothing may be cut off at an edge: all four are paper.
    edges = pixels[0] + pixels[-1] + b"".join(row[:3] + row[-3:] for row in pixels)
    return wrong + (["something is drawn over the edge"] if set(edges) != {255} else [])


def main():
    with tempfile.TemporaryDirectory(prefix="report-") as out:
        command = os.environ.get("TIDEMILL_REPORT_TEST", "cargo test --workspace --features lightgbm --locked --lib")
        test = [*command.split(), "report::tests::a_report_is_written", "--", "--ignored"]
        if subprocess.call(test, env=os.environ | {"TIDEMILL_REPORT_FOLDER": out}):
            return 1
        files = sorted(path for path in pathlib.Path(out).rglob("*") if path.is_file())
        checks = {".html": check_page, ".svg": check_svg, ".png": check_png}
        wrong = [f"{path.name}: {line}" for path in files for line in checks[path.suffix](path)]
        names = {(path.stem, path.suffix) for path in files}
        wrong += [f"no {name}{form}" for name in sorted(PICTURES) for form in (".png", ".svg") if (name, form) not in names]
    print("\n".join(wrong))
    print(f"{len(files)} files of a report read, {len(wrong)} problems")
    return 1 if wrong else 0


sys.exit(main())
