"""The demo behind make_demo.py, run_demo.py and compare_packing.py: its clips, its questions and its runs."""
