"""Reference firmware for a BBC micro:bit: sensor_node.py in less, for 16 KiB of RAM.

It speaks CBOR frames, as described in docs/firmware.md, through the USB port. Readings are held
until the gateway acknowledges them; of more than HELD of them the oldest are dropped. These are
three files, because compiling takes memory, too. To get the prompt back send {"stop": true}.
"""

import gc

import frames  # noqa: F401  (while there is room to compile it)

gc.collect()
import node  # noqa: E402

node.run()
