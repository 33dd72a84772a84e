"""What lies in webdataset shards, without a decoded pixel, and what it means for a run. Needs nothing but Python."""
