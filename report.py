"""Write the report of a sweep, or rebuild it: report.html, report.md, report.csv and plots, in the sweep's folder.

python report.py runs/<name>/<date>
python report.py runs/<name>/<date> --metric val/loss
python report.py runs/a/<date> runs/b/<date> --output runs/a_and_b       sweeps joined
"""

import argparse
import sys
from pathlib import Path

from results import report
from results.record import one_line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a sweep's folder")
    parser.add_argument("--metric", default="val/top1", help="sorts the configurations (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the report's folder; required for several sweeps")
    parser.add_argument("--no-plots", dest="plots", action="store_false", help="tables only")
    given = parser.parse_args()
    try:
        print(report.write(**vars(given)))
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(f"\n{(given.output or given.folders[0]) / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
