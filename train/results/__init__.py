"""What training leaves behind: loaded, asked, scored, merged and sent to the hub."""
