"""The most common passwords of ten characters or more, in folded case; shorter ones are refused by their length."""

from typing import Final

_LISTED: Final = """
    0123456789 0987654321 1029384756 1111122222 1122334455 1212121212 1231231231 1231231234 123123123123 1234554321
    1234512345 123456123456 1234567890 12345678900 12345678901 12345678910 1234567891 1234567890a 1234567890q
    123456789a 123456789q 123456789abc 123456abcdef 123456qwerty 123qweasdzxc 1357924680 1472583690 147258369a
    1q2w3e4r5t 1q2w3e4r5t6y 1qaz2wsx3edc 1qazxsw23edc 2468013579 9876543210 987654321a
    abc1234567 abc123456789 abcd123456 abcdefghij abcdefghijk admin12345 admin123456 administrator administrator1
    asdasdasd1 asdfasdfasdf asdfghjkl1 asdfghjkl123 baseball123 basketball basketball1 carillon123 changeme12
    changeme123 changemenow chocolate1 christopher computer123 correcthorsebatterystaple default123 dragon123456
    football123 hello12345 hello123456 helloworld helloworld1 iloveyou12 iloveyou123 iloveyou1234 jesuschrist letmein123
    letmein1234 liverpool1 manchester manunited1 michael123 monkey123456 mypassword mypassword1 onepassword p@ssw0rd12
    p@ssw0rd123 p@ssword123 pa55word123 pass123456 passw0rd12 passw0rd123 passw0rd1234 password01 password10 password11
    password12 password123 password123! password1234 password12345 password123456 password1! password1password
    passwordpassword princess123 q1w2e3r4t5 q1w2e3r4t5y6 qazwsxedc1 qazwsxedcrfv qwe123qwe123 qweasdzxc1 qweasdzxc123
    qwerty1234 qwerty12345 qwerty123456 qwertyuiop qwertyuiop1 qwertyuiop123 qwertyuiop[] qwertzuiop qwertzuiop1
    azertyuiop azertyuiop1 secret1234 secretsecret starwars123 sunshine123 superman123 supersecret test123456
    testtesttest testpassword trustno1trustno1 unbelievable welcome123 welcome1234 welcome12345 whatsername zaq12wsxcde
    zxcvbnm123 zxcvbnm1234 zxcvbnmasdf
"""

COMMON_PASSWORDS: Final = frozenset(_LISTED.split())
