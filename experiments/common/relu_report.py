def write_report(config, cells, workdir):
    pass
