"""Objects in a bucket: read, written whole, listed, and written on a condition.

obstore (Rust, from the extra `remote`) reaches S3, Google Cloud Storage, Azure and web servers;
fsspec reaches what obstore does not know, and takes its place where it is not installed.
Credentials and endpoints come from the environment alone.

The modules here are imported where a user names an address, and nowhere else.
"""
