"""Run a script as if a package of the project were not there: PACKAGE SCRIPT ARGUMENTS."""

import runpy
import sys
from pathlib import Path

from hidden_extras import Hidden

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
package, *sys.argv = sys.argv[1:]
sys.meta_path.insert(0, Hidden(package))
runpy.run_path(sys.argv[0], run_name="__main__")
