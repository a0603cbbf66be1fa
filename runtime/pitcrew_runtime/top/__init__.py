"""`pitcrew-top`: one server's metrics, as a page in a terminal."""
