"""Data docs: what every batch of a source brought, as a page that anybody can open.

The pages are made from the tables `batches` and `quarantine` alone, so that they can be made again.
"""
