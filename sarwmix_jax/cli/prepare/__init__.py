"""The command `sarwmix prepare`.

    sarwmix prepare geotiff --inputs FOLDER --out records/own --workers 8
    sarwmix prepare statistics records/own --split train

Every data set is written by several processes, in parts on several machines if need be; a stopped run goes on where it
was, and nothing half-written gets the name of the record set.
"""
