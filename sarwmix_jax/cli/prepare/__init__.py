"""The command `sarwmix prepare`.

    sarwmix prepare geotiff --inputs FOLDER --out records/own --workers 8
    sarwmix prepare statistics records/own --split train

Every data set is written by several processes, or in parts on several machines; a stopped run continues where it was,
and nothing half-written gets the name of the record set.
"""
