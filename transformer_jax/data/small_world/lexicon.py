"""The words of the small world, and how English inflects them."""

from typing import NamedTuple


class Phrase(NamedTuple):
    """A Chinese phrase and its one English rendering."""

    zh: str = ""
    en: str = ""


NOTHING = Phrase()


class Noun(NamedTuple):
    """`unit` measures a mass noun in English (杯 cup); a noun without `measure` is always bare."""

    zh: str
    en: str
    bare: str
    kind: str
    measure: str
    unit: str


class Verb(NamedTuple):
    """`kinds` of its objects; `tenses` by first letter, and y if months and years suit the verb."""

    zh: str
    en: str
    kinds: str
    places: str
    tenses: str


class Subject(NamedTuple):
    """`agree` is "I", "he" or "you" (all plurals too); `head` names it in held-out combinations."""

    zh: str
    en: str
    agree: str
    plural: bool
    head: str


def phrases(table: str) -> list[Phrase]:
    """Reads `猫 cat, 警察 police officer`."""
    return [Phrase(*entry.split(maxsplit=1)) for entry in table.split(",")]


def entries(table: str) -> tuple[tuple[str, ...], ...]:
    """Reads `看 read: book paper: study; …` into (看, read, book paper, study)."""
    rows = (entry.split(":") for entry in table.split(";"))
    return tuple((*head.split(maxsplit=1), *map(str.strip, rest)) for head, *rest in rows)


def read_nouns(table: str) -> list[Noun]:
    """Reads `kind measure word(=English unit): 中文 English(=English of the bare noun), …`."""
    nouns = []
    for entry in table.split(";"):
        head, members = entry.split(":")
        kind, measure, unit = (*head.replace("=", " ").split(), "", "")[:3]
        for zh, en in phrases(members):
            singular, _, bare = en.partition("=")
            nouns.append(Noun(zh, singular, bare, kind, measure, unit))
    return nouns


# ------------------------------------------------------------------------------------ the lexicon
NOUNS = read_nouns("""
    pet 只: 猫 cat, 鸟 bird, 兔子 rabbit; pet 条: 狗 dog; fish 条: 鱼 fish; mount 匹: 马 horse;
    farm 只: 羊 sheep, 鸭子 duck; farm 头: 牛 cow; wild 头: 大象 elephant;
    wild 只: 老虎 tiger, 猴子 monkey, 熊猫 panda, 老鼠 mouse;
    produce 个: 苹果 apple, 橙子 orange, 西红柿 tomato, 土豆 potato, 鸡蛋 egg;
    produce 根: 香蕉 banana; produce 颗: 草莓 strawberry;
    dish 个: 饺子 dumpling, 三明治 sandwich, 汉堡 hamburger, 蛋糕 cake;
    grain 碗=bowl: 米饭 rice=rice, 面条 noodles=noodles;
    grain 块=piece: 面包 bread=bread, 巧克力 chocolate=chocolate;
    drink 杯=cup: 茶 tea=tea, 咖啡 coffee=coffee; drink 瓶=bottle: 啤酒 beer=beer, 可乐 cola=cola;
    drink 杯=glass: 水 water=water, 牛奶 milk=milk, 果汁 juice=juice;
    book 本: 书 book, 小说 novel; paper 本: 杂志 magazine; paper 份: 报纸 newspaper=the newspaper;
    letter 封: 信 letter; show 部: 电影 movie; show 场: 比赛 game; show: 电视 TV=TV;
    song 首: 歌 song; music: 音乐 music=music; bike 辆: 自行车 bicycle; photo 张: 照片 photo;
    car 辆: 汽车 car;
    truck 辆: 卡车 truck, 公共汽车 bus, 出租车 taxi;
    clothing 件: 衬衫 shirt, 毛衣 sweater, 外套 coat;
    clothing 条: 裙子 skirt; clothing 顶: 帽子 hat; ware 个: 杯子 cup, 盘子 plate, 碗 bowl;
    ware 把: 刀 knife; tool 把: 雨伞 umbrella, 钥匙 key; tool 支: 铅笔 pencil, 钢笔 pen;
    tool 个: 盒子 box, 包 bag, 礼物 gift; tool 块: 手表 watch; tool 台: 电脑 computer;
    tool 台: 照相机 camera; tool 部: 手机 phone; tool 张: 地图 map, 票 ticket;
    tool 本: 词典 dictionary; furniture 张: 桌子 table, 床 bed; furniture 把: 椅子 chair;
    nature 朵: 花 flower; nature 棵: 树 tree; nature 片: 叶子 leaf; house 座: 房子 house;
    language: 中文 Chinese=Chinese, 英语 English=English, 法语 French=French;
    topic: 数学 math=math, 历史 history=history, 科学 science=science; football: 足球 soccer=soccer;
    ball: 篮球 basketball=basketball, 网球 tennis=tennis, 排球 volleyball=volleyball;
    keyboard: 钢琴 piano=the piano, 吉他 guitar=the guitar; violin: 小提琴 violin=the violin;
    homework: 作业 homework=homework; person 个: 孩子 child, 男孩 boy, 女孩 girl;
    person 个: 男人 man, 女人 woman; job 个: 学生 student, 工人 worker, 警察 police officer;
    job 位: 老师 teacher, 医生 doctor, 护士 nurse, 律师 lawyer, 工程师 engineer;
    job 个: 演员 actor, 司机 driver, 农民 farmer""")
# For each tense (`Verb.tenses` has its first letter): the marker before a Chinese verb, plain and
# negated, and the shares of objects that are bare, and that are bare or counted.
TENSES = {
    "past": ("", "没", 0.0, 0.65), "habit": ("", "不", 0.5, 0.75), "now": ("正", "没", 0.4, 0.7),
    "future": ("会", "不会", 0.2, 0.7), "can": ("会", "不会", 0.9, 0.9),
    "want": ("想", "不想", 0.4, 0.7), "like": ("喜欢", "不喜欢", 0.9, 0.9),
}  # fmt: skip
VERBS = [Verb(*entry) for entry in entries("""
    看 read: book paper letter: study: phnfwl; 看 watch: show: home: phnfwl;
    吃 eat: produce dish grain fish: eat: phnfwl; 喝 drink: drink: eat: phnfwl;
    买 buy: produce dish grain drink book paper clothing tool car bike: shop: phnfwy;
    卖 sell: produce book clothing: shop: phnf; 写 write: letter: study: phnfwl;
    做 make: dish: home: phnfcwl; 做 do: homework: study: phnfw;
    洗 wash: clothing ware produce car: wash: phnfw; 听 listen to: music song: home: phnfwl;
    唱 sing: song: eat: phnfcwl; 画 draw: pet fish farm mount wild nature house: out: phnfcwl;
    喂 feed: pet fish farm mount: out: phnfwl; 骑 ride: bike mount: out: phnfcwl;
    开 drive: car truck: world: phnfcwl; 修 fix: car truck bike: yard: phnfcwl;
    拍 take: photo: out: phnfwl;
    学 study: language topic: study: phnfwly; 教 teach: language topic: class: phnfcwly;
    说 speak: language: class: phnfcwl; 打 play: ball: out: phnfcwl;
    踢 play: football: out: phnfcwl;
    弹 play: keyboard: home: phnfcwl; 拉 play: violin: home: phnfcwl;
    找 look for: tool pet: home: pnfw;
    等 wait for: job: city: pnf; 帮助 help: job person: class: phnfwl;
    看见 see: pet wild farm mount job person: out: p; 睡觉 sleep:: home: phnfwl;
    做饭 cook:: home: phnfcwl; 跑步 run:: out: phnfwl; 散步 take a walk:: out: phnfwl;
    钓鱼 fish:: water: phnfcwl; 游泳 swim:: water: phnfcwl; 跳舞 dance:: out: phnfcwl;
    聊天 chat:: eat: phnfwl; 休息 rest:: home: phnfw; 工作 work:: city: phnfwy;
    旅行 travel:: world: phnfwly; 去 go: place:: phfwy""")]  # fmt: skip
STATIVES = [Verb(*entry, "", "h") for entry in entries("""
    有 have: pet fish farm mount book paper clothing tool car bike photo house;
    喜欢 like: pet farm mount wild produce dish grain drink book music song topic ball;
    想要 want: pet produce dish drink book clothing tool car bike;
    需要 need: book clothing tool ware furniture car bike""")]  # fmt: skip
PLACES = entries("""
    家 at home: home study eat wash yard; 车库 in the garage: yard;
    学校 at school: study eat city class go;
    图书馆 in the library: study city go; 教室 in the classroom: study class;
    咖啡馆 in the coffee shop: study eat go; 办公室 in the office: study city;
    厨房 in the kitchen: eat; 饭馆 at the restaurant: eat city go; 公园 in the park: out eat go;
    花园 in the garden: out yard; 房间 in the room: home study; 河边 by the river: out water;
    湖边 by the lake: out water;
    海边 by the sea: out water; 商店 at the store: shop go; 超市 at the supermarket: shop go;
    市场 at the market: shop go; 医院 at the hospital: city go; 银行 at the bank: go;
    机场 at the airport: city go; 博物馆 at the museum: city go;
    火车站 at the train station: city go;
    北京 in Beijing: world shop go; 上海 in Shanghai: world shop go;
    英国 in England: world class go; 法国 in France: world class go""")
LOCATIONS = entries("""
    桌子上 on the table: book paper letter tool ware produce dish photo;
    椅子上 on the chair: book paper clothing tool; 床上 on the bed: book paper clothing tool;
    床下 under the bed: tool book pet; 冰箱里 in the fridge: produce dish;
    房间里 in the room: furniture person; 教室里 in the classroom: person;
    山上 on the mountain: nature house farm; 树下 under the tree: pet person bike;
    公园里 in the park: person pet bike; 河里 in the river: fish""")
ADJECTIVES = entries("""
    大 big: pet farm mount wild fish produce dish ware furniture house nature;
    小 small: ware furniture house produce;
    新 new: book clothing tool ware furniture car bike house;
    旧 old: book clothing tool furniture car bike;
    贵 expensive: book clothing tool furniture car bike;
    便宜 cheap: book clothing tool furniture car bike;
    漂亮 beautiful: clothing furniture house mount;
    可爱 cute: pet; 奇怪 strange: wild tool letter; 聪明 smart: pet mount wild;
    好吃 delicious: produce dish; 有意思 interesting: book paper show letter;
    红色 red: clothing tool ware car bike nature; 蓝色 blue: clothing tool ware car bike;
    绿色 green: clothing tool ware car; 黑色 black: pet mount clothing tool car;
    白色 white: pet mount clothing ware furniture house; 黄色 yellow: clothing ware car nature""")
FEELINGS = phrases("""高兴 happy, 难过 sad, 忙 busy, 累 tired, 饿 hungry, 渴 thirsty, 生气 angry,
    紧张 nervous, 担心 worried""")
COMPARED = entries("""
    大 bigger: pet wild house furniture; 便宜 cheaper: clothing book tool car;
    贵 more expensive: clothing book tool car; 漂亮 more beautiful: clothing house mount;
    有意思 more interesting: book show; 高 taller: people; 年轻 younger: people;
    聪明 smarter: people; 忙 busier: people; 有名 more famous: people""")
# The last two of PAST, HABIT and FUTURE need a verb that suits months and years.
PAST = phrases("""昨天 yesterday, 前天 the day before yesterday, 昨天早上 yesterday morning,
    昨天下午 yesterday afternoon, 昨天晚上 last night, 上个星期 last week, 上个月 last month,
    去年 last year""")
HABIT = phrases("""每天 every day, 每天早上 every morning, 每天下午 every afternoon,
    每天晚上 every evening, 每个周末 every weekend, 每个星期 every week, 每个月 every month,
    每年 every year""")
FUTURE = phrases("""明天 tomorrow, 后天 the day after tomorrow, 明天早上 tomorrow morning,
    明天下午 tomorrow afternoon, 今天晚上 tonight, 下个星期 next week, 下个月 next month,
    明年 next year""")
NOW, TODAY = Phrase("现在", "now"), Phrase("今天", "today")
FREQUENCIES = phrases("常常 often, 总是 always, 有时候 sometimes, 很少 rarely, 从来不 never")
NEAR = phrases("骑自行车 by bicycle, 坐公共汽车 by bus, 坐出租车 by taxi")
FAR = phrases("坐火车 by train, 坐飞机 by plane, 坐船 by boat")
DEGREES = (Phrase("很"), Phrase("很"), Phrase("非常", "very"))
NUMBERS = phrases("两 two, 三 three, 四 four, 五 five, 六 six, 七 seven, 八 eight, 九 nine, 十 ten")
NAMES = phrases("""小明 Xiaoming, 小红 Xiaohong, 李华 Li Hua, 王芳 Wang Fang, 张伟 Zhang Wei,
    大卫 David, 玛丽 Mary, 安娜 Anna, 汤姆 Tom""")
KIN = phrases("""妈妈 mother, 爸爸 father, 哥哥 older brother, 弟弟 younger brother, 叔叔 uncle,
    姐姐 older sister, 妹妹 younger sister, 爷爷 grandfather, 奶奶 grandmother""")
POSSESSIVES = phrases("我 my, 你 your, 他 his, 她 her, 我们 our, 他们 their")
OBJECTIVES = phrases("我 me, 你 you, 他 him, 她 her")
PRONOUNS = {
    zh: Subject(zh, en.split()[0], en.split()[1], zh.endswith("们"), zh)
    for zh, en in phrases("""我 I I, 你 you you, 他 he he, 她 she he, 我们 we you, 你们 you you,
    他们 they you, 她们 they you""")
}
THINGS = "pet mount book paper letter clothing ware tool car bike photo house"
CONNECTIVES = (Phrase("，但是", ", but"), Phrase("，而且", ", and"), Phrase("，而", ", while"))
# ------------------------------------------------------------------------------ English morphology
IRREGULAR_PLURALS = {"child": "children", "man": "men", "woman": "women", "mouse": "mice",
                     "sheep": "sheep", "fish": "fish", "knife": "knives", "leaf": "leaves",
                     "tomato": "tomatoes", "potato": "potatoes"}  # fmt: skip
IRREGULAR_PASTS = {"read": "read", "eat": "ate", "drink": "drank", "buy": "bought", "sell": "sold",
                   "write": "wrote", "make": "made", "do": "did", "sing": "sang", "draw": "drew",
                   "feed": "fed", "ride": "rode", "drive": "drove", "take": "took", "see": "saw",
                   "teach": "taught", "speak": "spoke", "sleep": "slept", "run": "ran",
                   "swim": "swam", "go": "went", "have": "had", "chat": "chatted"}  # fmt: skip
BE = {"I": ("am", "was"), "he": ("is", "was"), "you": ("are", "were")}
NEGATED = {"am": "am not", "will": "won't", "can": "can't"}


def ends_in_consonant_y(word: str) -> bool:
    return word.endswith("y") and word[-2] not in "aeiou"


def plural(word: str) -> str:
    """The -s form; `third_person` shares its rules."""
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    if ends_in_consonant_y(word):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def third_person(verb: str) -> str:
    return {"have": "has", "do": "does", "go": "goes", "fish": "fishes"}.get(verb) or plural(verb)


def past(verb: str) -> str:
    if verb in IRREGULAR_PASTS:
        return IRREGULAR_PASTS[verb]
    if ends_in_consonant_y(verb):
        return verb[:-1] + "ied"
    return verb + ("d" if verb.endswith("e") else "ed")


def progressive(verb: str) -> str:
    if verb in ("run", "swim", "chat"):
        return verb + verb[-1] + "ing"
    return (verb[:-1] if verb.endswith("e") else verb) + "ing"


def indefinite(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words
