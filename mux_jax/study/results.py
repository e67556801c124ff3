"""What a study has found."""


def write(models, workdir):
    pass
