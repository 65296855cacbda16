"""The extension codes of stored values, which are part of the file format and of every key.

Never reuse one. What each payload is stands in docs/file-format.md.
"""

MAP, TUPLE, SET, FROZENSET, BIGINT, DECIMAL = 1, 2, 3, 4, 5, 6
DATETIME, DATE, TIME, TIMEDELTA, UUID, PATH, ENUM, OBJECT, CALL = range(7, 16)
FLOAT32S, FLOAT64S, ARRAY = 16, 17, 18
COMPLEX, FRACTION, BYTEARRAY, MEMORYVIEW, DEQUE, RANGE, ADDRESS = range(19, 26)
PURE_PATH, DICT_KIND, ENUM_MEMBER, NUMBER, OBJECTS, PANDAS, IMAGE, URL = range(26, 34)
REGISTERED, KEYED = 34, 35
SURROGATES = 36  # text with half of a surrogate pair, which JSON can spell and UTF-8 cannot

NEWEST = SURROGATES
