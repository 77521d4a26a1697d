"""python -m nasdm_wsi.cli"""

from .main import main

main(prog_name="nasdm-wsi")
