"""python -m nasdm_wsi"""

from .cli.main import main

main(prog_name="nasdm-wsi")
