"""The data room: images become HDF5 shards once, trials read them many times. Neither torch nor ray is imported here.

writing   sources (folder, zip, CSV, foreign HDF5) -> splits -> convert (images) -> format -> write (plan, resume)
reading   read.open_split -> shards.ShardSet (tables, shardfile), decode; read.describe needs the standard library only
linking   link (somebody else's HDF5 file as it is) -> linked.LinkedSet, libhdf5 (threads and forks)
rows      rows of a table as a model takes them: out of shards, a CSV file, a DataFrame
on a node  nodecopy (one copy for all trials there), storage (which directories)
checking  check
demo      bundled.ensure_demo_data
"""
