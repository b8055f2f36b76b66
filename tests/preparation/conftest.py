from tests.data.conftest import make_source as make_source
