# ruff: noqa: E501 (one step of a scene per line)
"""The words, sentence frames and scenes of the story grammar, as text.

A frame is a sentence with slots in square brackets:

    [A]               the name of a character (roles A, B, C are people, D is an animal)
    [A!]              the same, and the sentence introduces that character
    [he A]            he, she, or the name where a pronoun would be unclear
    [him A]           him, her, or the name
    [his A]           his, her, or the name with 's
    [self A]          himself or herself
    [girl A]          boy or girl; [man A]: man or woman; [brother A]: brother or sister
    [T]               an entity that a scene or story declares, the same word every time
    [color]           any word of a word class, drawn again every time; "a" before it becomes "an"

A step of a scene is one line: alternatives separated by " | ", a leading "?" for a step
that is left out now and then, and "@pool X Y" for a sentence of a pool with its roles.
"""

WORD_CLASSES = {
    "girl_name": """Anna Sally Emma Lucy Mary Rosa Clara Nina Julia Molly Betty Helen Alice Sarah
        Laura Grace Ellen Linda Susan Kate Jenny Martha Diana Vera""",
    "boy_name": """Tom Peter Jack Ben Sam David Henry Oscar Paul Max George Simon Daniel Robert
        Felix Frank Martin Oliver Adam Harry Philip Victor Jacob Walter""",
    "heldout_girl_name": "Emily Rachel Sophie Amy Barbara Nancy Irene Jessica",
    "heldout_boy_name": "Andrew Richard Billy Joseph Eric Michael Stephen Toby",
    "he_animal_name": "Rex Buddy Rusty Lucky Biscuit Captain Prince Bruno",
    "she_animal_name": "Bella Daisy Coco Ginger Snowy Lady Pepper Misty",
    "heldout_he_animal_name": "Shadow Buster",
    "heldout_she_animal_name": "Ruby Toffee",
    "toy": "ball doll drum boat train puzzle robot wagon puppet balloon trumpet teddy",
    "small": """key ring watch coin hat glove scarf shoe button letter map book bag purse pencil
        necklace whistle medal candle umbrella""",
    "tool": "hammer rope shovel bucket ladder broom basket brush saw rake",
    "pet": "dog cat rabbit pony parrot duck goat lamb hen turtle puppy kitten",
    "wild": "fox bear wolf deer owl squirrel hedgehog badger snake beaver rabbit frog eagle",
    "insect": "bee spider butterfly beetle snail worm",
    "dish": "cake pie soup bread cheese salad pudding porridge pizza rice chicken fish pasta",
    "fruits": "apples pears plums berries cherries oranges peaches nuts grapes bananas lemons",
    "vegetables": "carrots potatoes onions beans peas tomatoes pumpkins mushrooms",
    "drink": "milk water tea juice cocoa lemonade",
    "outdoor": """garden park field forest hill river lake meadow beach yard orchard valley farm
        pond mountain island road harbor""",
    "building": """school barn mill shop church library station castle tower hospital museum bakery
        theater hotel house""",
    "room": "kitchen bedroom attic cellar hall bathroom closet garage",
    "furniture": "table bed chair box cupboard shelf sofa desk stove clock mirror curtain",
    "near": "under behind beside near",
    "color": "red blue green yellow white black brown orange purple pink gray golden silver",
    "size": "big small little tiny huge long old new heavy strange beautiful pretty",
    "feeling": "happy sad tired angry proud hungry surprised worried lonely excited cold thirsty",
    "weather": "sunny windy rainy cloudy cold warm foggy bright gray cool",
    "daytime": "morning afternoon evening",
    "weekday": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": """January February March April May June July August September October November
        December""",
    "season": "spring summer autumn winter",
    "number": "two three four five six seven eight nine ten eleven twelve twenty",
    "job": """farmer baker teacher doctor painter tailor sailor shepherd miller carpenter cook nurse
        soldier gardener driver fisherman hunter writer dancer singer""",
    "quietly": "slowly quickly quietly carefully softly loudly gently happily bravely",
    "instrument": "flute violin piano guitar horn trumpet bell",
    "clothes": "coat dress shirt sweater jacket skirt cap",
    "material": "wood stone paper glass gold iron silver leather wool",
    "flowers": "roses tulips lilies sunflowers violets daffodils",
    "subject": "reading writing music history science drawing spelling geography",
    "sight": """bridge kite ship shell crab building giant knot tub towel card string bone wave
        statue circus""",
    "game": "football tennis chess cards hopscotch marbles",
}

POOLS = {
    "greet": """Good morning, [Y], said [X]. | Hello, [Y], said [X]. | How are you today, asked [X].
        | I am so glad to see you, said [X]. | [X] waved to [Y] from far away.""",
    "idea": """I have an idea, said [X]. | Let us do it together, said [X].
        | [X] thought about it for a while. | Then [X] had a good idea.
        | What shall we do now, asked [X]. | I know what we can do, said [X].""",
    "agree": """Yes, said [X], that is a good plan. | All right, said [X], let us go.
        | Of course, said [X]. | I will come with you, said [X].
        | I would like that very much, said [X].""",
    "thank": """Thank you very much, said [X]. | Thank you, [Y], said [X].
        | [X] thanked [Y] and smiled. | You are a good friend, [Y], said [X].
        | [X] gave [Y] a big hug.""",
    "happy": """[X] was very happy. | [he X] laughed and clapped [his X] hands.
        | This is wonderful, said [X]. | [X] smiled from ear to ear.
        | [he X] had never been so happy before. | What a lovely day, said [X].
        | [he X] felt very proud of [self X].""",
    "sad": """[X] was very sad. | [X] began to cry. | [he X] sat down and cried. | Oh no, said [X].
        | [he X] did not know what to do. | Tears ran down [his X] face.
        | What am I going to do, said [X].""",
    "afraid": """[X] was very much afraid. | [his X] heart beat very fast.
        | I am afraid, said [X]. | [X] did not dare to move.
        | [he X] held [his X] breath and listened.""",
    "comfort": """Do not cry, said [Y]. | Do not worry, [X], said [Y]. | I will help you, said [Y].
        | We will find a way, said [Y]. | [Y] took [him X] by the hand.
        | [Y] put an arm around [him X].""",
    "walk": """They walked and walked until they came to the [outdoor].
        | They went down the road together. | They walked across the [outdoor] side by side.
        | On the way they saw a [wild]. | On the way they sang an old song.
        | They stopped to look at a [size] [sight].
        | They passed the [building] and the [outdoor].""",
    "home": """At last it was time to go home. | They went home before it was dark.
        | Then they all went home for supper. | When they came home, dinner was ready.
        | They were tired but happy. | It is getting late, said [X].
        | They went back to the house near the [H].""",
    "eat": """They were both very hungry by now. | They sat down and ate some [dish].
        | They drank [drink] and ate [fruits]. | It tasted very good.
        | [X] ate [number] pieces all alone. | There was [dish] and [drink] for everybody.""",
    "weather": """It was a [weather] [daytime] in [month].
        | The sun was shining and the birds were singing. | The sky was blue and the air was warm.
        | It was raining, and the wind was cold. | A cold wind blew from the [outdoor].
        | It was a [weather] day in [season].""",
    "night": """That night [X] slept very well. | [X] went to bed and fell asleep at once.
        | [he X] dreamed of the [outdoor] all night. | The moon was shining through the window.
        | Good night, [X], said [his X] mother. | [X] closed [his X] eyes and smiled.""",
    "search": """They looked everywhere. | [X] looked [near] the [furniture]. | It was not there.
        | Where can it be, asked [X]. | They asked everybody they met. | Nobody had seen it.
        | [X] looked in every corner of the [room].""",
    "find": """Look, there it is, cried [X]. | I have found it, said [X].
        | It was lying [near] the [furniture]. | There it was, right in front of them.""",
    "try": """[X] tried once more. | [X] tried again and again. | At first it did not work.
        | It was not easy. | [he X] did not give up. | Be careful, [X], said [Y].""",
    "help": """Can you help me, asked [X]. | Please help me, [Y], said [X].
        | Yes, I can help you, said [Y]. | [Y] came at once to help [him X].""",
    "wait": """They waited for a long time. | After a while they heard a strange noise.
        | A little later the sun came out. | An hour later they were still there.
        | [X] looked at the clock again and again.""",
    "work": """They worked hard all [daytime]. | [X] carried the [tool], and [Y] carried the [tool].
        | [X] worked [quietly], and [Y] helped. | It was hard work, but nobody complained.""",
    "proud": """Well done, said [Y]. | Everybody clapped for [him X]. | I am proud of you, said [Y].
        | You did it, [X], cried [Y]. | Nobody could have done it better, said [Y].""",
    "ask": """What is that, asked [X]. | That is a good question, said [Y]. | Tell me about it, said [X].
        | Do you know the answer, asked [X]. | I do not know, said [Y].
        | What do you think, asked [X].""",
}

# How a story begins. Roles: A main character, B friend or relative, C a grown-up with a job J,
# D the animal K, H the place near the house.
OPENING = """
Once there was a [girl A] called [A!]. | There once was a [girl A] whose name was [A!]. | This is the story of a [girl A] called [A!].
[he A] lived in a [size] house near the [H]. | [his A] house stood right beside the [H]. | [he A] lived with [his A] parents near the [H].
?[he A] was [number] years old. | [he A] loved to play in the [outdoor]. | [he A] liked [dish] better than anything else.
"""
INTRODUCE_B = {
    "friend": """[A] had a good friend called [B!]. | [his A] best friend was called [B!].
        | [B!] was the best friend of [A].""",
    "sibling": "[A] had a [brother B] called [B!]. | [his A] [brother B] was called [B!].",
    "cousin": "[A] had a cousin called [B!]. | [his A] cousin was called [B!].",
}
INTRODUCE_C = """
[C!] the [J] lived in the next house. | [A] knew a [J] whose name was [C!]. | Across the street lived [C!], the old [J].
"""
INTRODUCE_D = """
[A] had a [color] [K] called [D!]. | [A] also had a [K] whose name was [D!]. | [D!] was a [size] [color] [K].
?[D] followed [A] everywhere. | [A] loved [D] very much. | [D] slept under the bed every night.
"""

# Between two scenes of one story.
TRANSITION = """
The next day [A] met [B] by the [H]. | One [weather] [daytime] [A] and [B] were together again. | On [weekday] [A] went out to see [B]. | A few days later [A] and [B] met again. | Early the next [daytime] [B] knocked on the door. | One day in [month] [A] and [B] went out again. | The next [daytime] [A] and [B] met near the [H]. | A week later [A] was sitting in the [room].
?@greet A B | @weather A B
"""

ENDING = """
And that is the story of [A] and [B]. | That was the best day of the year, said [A]. | [A] and [B] were friends for ever. | [A] never forgot that day. | From that day on they were never apart. | Many years later [A] still told this story. | And they all lived happily near the [H].
"""

# A scene is a name, entities with their word classes, and its steps.
SCENES = {
    "lost thing": (
        "T:small F:color",
        """
[A] had lost [his A] [F] [T]. | [A] could not find [his A] [F] [T]. | The [F] [T] of [A] was gone.
I had it yesterday, said [A]. | Where is my [T], asked [A]. | Have you seen my [T], asked [A].
@sad A B
@comfort A B
When did you see it last, asked [B]. | Let us look for the [T], said [B].
@search A B
?@search B A
?Perhaps a [wild] took it, said [B]. | Maybe it is in the [room], said [B].
[B] went into the [room] and looked again. | Then [B] looked inside the old [furniture].
@find B A
[B] gave the [F] [T] back to [A]. | [A] held the [F] [T] in [his A] hand.
@thank A B
""",
    ),
    "baking": (
        "S:dish",
        """
[A] wanted to bake a [S] for [his A] mother. | Let us make a [S], said [A].
@agree B A
They went into the kitchen and washed their hands. | [B] put on a white apron.
We need eggs, flour and sugar, said [B]. | [A] took [number] eggs out of the basket.
[A] mixed the flour with butter and milk. | [B] broke the eggs into a bowl.
?Some of the flour fell on the floor. | [B] had flour on the end of [his B] nose.
They put the [S] into the hot oven. | [A] opened the oven door very [quietly].
@wait A B
The whole house smelled of [S]. | That smells good, said [B].
@try B A
At last the [S] was ready. | The [S] was golden brown and still warm.
@eat A B
@happy A B
""",
    ),
    "berries": (
        "P:outdoor R:fruits",
        """
In [month] the [R] were ripe. | The [R] in the [P] were ripe and sweet.
[A] and [B] took a basket and went to the [P]. | Let us pick some [R], said [A].
?@walk A B
There were [R] everywhere. | The trees in the [P] were full of [R].
[A] picked one and put it into [his A] mouth. | They picked [R] until the basket was full.
Do not eat them all, said [B]. | One for me and one for the basket, said [A].
?Suddenly a [insect] landed on the basket. | A [wild] watched them from behind a tree.
Soon the basket was very heavy. | They carried the heavy basket home together.
My mother will make jam, said [B]. | With these [R] we can make a pie, said [A].
@home A B
@eat B A
""",
    ),
    "fishing": (
        "P:outdoor N:number",
        """
[A] and [B] went fishing early in the morning. | [A] wanted to catch a fish for supper.
They sat down on a big stone by the water. | [B] carried the nets and a bucket.
The water was quiet and very clear. | [A] threw the line into the water.
@wait A B
Quiet, said [B], or the fish will hear us. | I do not think they are hungry, said [B].
Suddenly something pulled on the line. | I have got one, cried [A].
@help A B
They pulled as hard as they could. | [B] held [him A] by the coat and pulled.
It was the biggest fish [A] had ever seen. | It was only an old shoe. | A silver fish jumped out of the water.
?@happy A B
Let us put it back, said [B]. | They let the little fish swim away.
They had caught [N] fish that day. | We have [N] fish, said [A].
@home B A
""",
    ),
    "storm": (
        "P:building",
        """
Dark clouds came over the hill. | Suddenly the sky turned black.
It is going to rain, said [A]. | There will be a storm, said [B].
It began to rain very hard. | The rain fell faster and faster.
Quick, let us run to the [P], cried [B]. | They ran to the old [P] as fast as they could.
Their shoes and coats were wet. | [A] was wet from head to foot.
There was thunder and lightning. | Then they heard the thunder.
@afraid A B
@comfort A B
They sat close together and told stories. | [B] found a lamp and lit it.
@wait B A
At last the storm was over. | The rain stopped, and the sun came out.
Look, a rainbow, cried [A]. | There was a rainbow over the [P].
@home A B
""",
    ),
    "birthday": (
        "T:toy F:color",
        """
It was the birthday of [A]. | Today [A] was [number] years old.
@weather A B
Happy birthday, [A], said [B]. | [B] came with a big box under [his B] arm.
There was a [F] ribbon around the box. | What is in the box, asked [A].
[A] opened the box very [quietly]. | Open it, said [B].
Inside the box was a [F] [T]. | It was a [F] [T].
I always wanted a [T], said [A]. | I made the [T] myself, said [B].
@thank A B
There was a big cake with [number] candles. | [A] blew out all the candles at once.
?Make a wish, said [his A] mother. | Everybody sang a song for [A].
@eat B A
They played with the [F] [T] until evening. | They danced and played games all afternoon.
@happy A B
""",
    ),
    "sick friend": (
        "S:dish R:fruits",
        """
[B] was ill and had to stay in bed. | [A] heard that [B] was ill.
I will visit [him B], said [A]. | [A] took some [R] and went to see [him B].
[B] was lying in bed and looked very pale. | How do you feel, asked [A].
My head hurts, said [B]. | I am hot and cold, said [B]. | My teeth hurt when I bite into an apple, said [B].
[A] brought [him B] a bowl of hot [S]. | Eat some [S], it will do you good, said [A].
@thank B A
The doctor came in with a black bag. | The doctor looked at [his B] throat.
Stay in bed for [number] days, said the doctor. | Drink plenty of [drink], said the doctor.
[A] sat by the bed and read a story. | [A] told [him B] a funny story.
[B] had to laugh. | [B] fell asleep with a smile.
A week later [B] was well again. | In a few days [B] could play again.
@happy A B
""",
    ),
    "lost animal": (
        "P:outdoor M:building",
        """
[D] was gone. | One morning [A] could not find [D].
[A] called and called, but [D] did not come. | Where are you, [D], called [A].
@sad A B
@comfort A B
They went to the [P] to look for [him D]. | We must find [D] before dark, said [B].
Have you seen [D], they asked a man on the road. | They asked an old woman with a basket.
[he D] ran toward the [M], said the woman. | I saw [him D] near the [M], said the man.
?@walk A B
Listen, said [B], I hear something. | They heard a noise inside the [M].
There was [D], cold and hungry. | [D] was sitting behind the door.
[D], cried [A], there you are. | [A] took [D] in [his A] arms.
Never run away again, said [A]. | [D] was very glad to see [him A].
@home A B
?@night A B
""",
    ),
    "broken wing": (
        "F:color",
        """
[A] found a little bird in the grass. | Under a tree lay a small [F] bird.
Look, its wing is broken, said [B]. | It cannot fly, said [A].
@sad A B
We must take it home, said [A]. | [A] picked up the bird very gently.
They put it in a box with soft wool. | They made a nest from an old hat.
[B] gave it water and some bread. | Every day they fed it with seeds.
?The bird looked at [A] and sang. | What shall we call it, asked [B].
@wait A B
After three weeks the wing was well. | The bird grew stronger every day.
We must let it go now, said [B]. | [A] opened the window.
The bird flew around the room and then away. | It flew high over the trees.
Good bye, little bird, said [A]. | The next spring the bird came back.
@happy A B
""",
    ),
    "school": (
        "S:subject N:number",
        """
On [weekday] [A] and [B] went to school. | The school bell rang at eight.
[A] sat down next to [B]. | Their teacher came in and smiled.
Today we will learn about [S], said the teacher. | The first lesson was [S].
Who knows the answer, asked the teacher. | The teacher asked a difficult question.
[A] put up [his A] hand. | Nobody knew the answer.
@ask A B
I think it is [N], said [A]. | The answer is [N], said [B].
That is right, said the teacher. | Very good, [A], said the teacher.
@proud A B
In the break they played [game]. | At noon they ate their [dish] in the yard.
[B] wrote a long word on the board. | [A] drew a [wild] in [his A] book.
I like [S] best of all, said [B]. | School is fun, said [A].
@home A B
""",
    ),
    "tree house": (
        "W:material T:tool",
        """
[A] wanted to build a house in a tree. | Let us build a tree house, said [A].
@agree B A
We need a [T] and a lot of wood, said [B]. | They brought boards, nails and a [T].
They found a tall tree near the [H]. | This oak is strong enough, said [B]. | One board was loose, and it had fallen down.
@work A B
[A] hit [his A] thumb with the hammer. | [B] almost fell off the ladder.
@try A B
[B] made a roof of branches. | They built a little window and a door. | [B] laid the boards and tied them with a knot.
?@help A B
After [number] days the house was finished. | At last the tree house was ready.
They climbed up and looked around. | From up there they could see the [outdoor]. | They could see the ships on the sea.
This is our house now, said [A]. | Nobody can find us here, said [B].
@happy B A
?@eat A B
""",
    ),
    "snowman": (
        "Q:clothes F:color",
        """
In the night it had snowed. | The whole world was white with snow.
Let us make a snowman, said [A]. | [A] put on [his A] warm boots and ran outside.
@agree B A
They rolled a big ball of snow. | The first ball was bigger than [A].
[B] put a second ball on top. | [B] made the head.
A carrot was the nose, and stones were the eyes. | They gave him a carrot for a nose.
He needs a hat, said [B]. | The snowman wore an old [F] [Q].
@happy A B
?Then they threw snow at each other. | A ball of snow hit [A] on the nose.
My hands are cold, said [B]. | Their fingers were cold, but they laughed.
@home A B
They drank hot cocoa by the fire. | They sat near the warm stove.
In [month] the snowman melted away. | Good night, snowman, said [A].
""",
    ),
    "swimming": (
        "P:outdoor F:color",
        """
It was very hot that day. | It was the hottest day of the [season].
Let us go swimming, said [A]. | [A] and [B] ran down to the lake.
I cannot swim, said [B]. | [B] was afraid of the deep water.
I will teach you, said [A]. | Do not be afraid, said [A].
[A] jumped into the water with a splash. | The water was cool and clear. | The waves came up to their feet.
[B] put one foot into the water. | [B] went into the water step by step.
Move your arms and legs, said [A]. | Hold my hand, said [A].
@try B A
Look, I can swim, cried [B]. | Suddenly [B] could swim alone.
@proud B A
They swam to the little island and back. | A [F] duck swam beside them.
They dried themselves with a towel. | They lay on the grass and looked at the clouds.
@eat A B
""",
    ),
    "market": (
        "V:vegetables R:fruits M:number",
        """
[A] and [B] went to the market. | On [weekday] there was a market in the town.
[his A] mother had given [him A] some money. | Buy some [V], [his A] mother had said.
The market was full of people. | There were so many things to see.
Fresh [R], cried a woman in a blue apron. | Buy my [V], called a man.
How much are the [V], asked [A]. | How much do you want for the [R], asked [B].
They cost [M] cents, said the man. | Only [M] cents, said the woman.
That is too much, said [B]. | That is very cheap, said [A].
[A] counted the money. | [A] had only [number] coins left.
@ask B A
They bought a bag of [V] and some [R]. | [A] paid for the [V].
?A man was playing the [instrument]. | A dog stole a sausage and ran away.
The bag was heavy, so [B] helped carry it. | They carried the bag home together.
@home A B
""",
    ),
    "planting": (
        "G:flowers",
        """
[C] gave [A] a handful of seeds. | [A] found some seeds in a drawer.
What will grow from them, asked [B]. | These are seeds of [G], said [C].
They went into the garden to plant them. | [A] dug a hole with the shovel.
[B] put the seeds into the dark earth. | They covered the seeds with earth.
Now we must give them water, said [A]. | [B] watered them every morning.
@wait A B
Nothing has come up, said [A]. | You must be patient, said [C].
@weather A B
One morning there were small green leaves. | At last something green came out of the earth.
They grew taller and taller. | Soon they were as tall as [B].
In [month] the garden was full of [G]. | The [G] were red, yellow and white.
@happy A B
[A] picked the finest one for [C]. | They gave [C] a bunch of [G].
@thank C A
""",
    ),
    "letter": (
        "U:daytime P:outdoor",
        """
In the [U] a letter came for [A]. | The postman brought a letter for [A].
Who wrote it, asked [B]. | [A] had never had a letter before.
[A] opened the letter and read it aloud. | [A] read the letter twice.
Dear [A], it said, please come to visit me. | The letter was from [his A] uncle.
My uncle lives near the [P], said [A]. | I have a surprise for you, the letter said.
@idea A B
Let us write back, said [B]. | [A] took a pen and a sheet of paper.
Dear uncle, wrote [A], we will come on [weekday]. | [A] wrote until the page was full.
@ask B A
[B] put a stamp on the letter. | They took the letter to the post office.
[number] days later the answer came. | The answer came after a week.
@happy A B
I will keep this letter for ever, said [A]. | [A] put the letter under [his A] pillow.
""",
    ),
    "train": (
        "P:outdoor F:color",
        """
[A] and [B] went on a journey by train. | They wanted to take the train to the [P].
The station was full of people and bags. | They bought [number] tickets at the station.
Hurry up, the train is coming, said [B]. | The train was late that day.
The long [F] train came in with a whistle. | A [F] train stopped in front of them.
They found a seat by the window. | [A] wanted to sit by the window.
Tickets, please, said the man in the cap. | Where are you going, asked an old lady.
We are going to the [P], said [A]. | We are going to see my aunt, said [B].
The train went faster and faster. | Fields and houses flew past the window.
Look at that [wild], cried [B]. | They went through a long dark tunnel.
?@afraid B A
@eat A B
At last the train stopped. | We are here, said [A].
@happy B A
""",
    ),
    "boat": (
        "F:color P:outdoor",
        """
There was an old boat on the river. | [C] had a small [F] boat.
May we use the boat, asked [A]. | Would you like to go for a ride, asked [C].
@agree B A
They climbed into the boat and sat down. | [B] untied the rope.
[A] rowed, and [B] looked out for stones. | They rowed down the river past the [P].
?A family of ducks swam behind them. | A big fish jumped beside the boat.
Suddenly the boat began to rock. | There is a hole in the boat, cried [B].
@afraid B A
Water came into the boat. | Quick, we must get to the shore, said [A].
[A] took off [his A] hat to empty the boat. | They rowed as fast as they could.
@try A B
At last they reached the shore. | They pulled the boat onto the sand.
That was close, said [B]. | We were lucky, said [A].
@home A B
""",
    ),
    "noise": (
        "P:room Z:wild",
        """
In the night [A] heard a noise. | There was a strange noise in the [P].
@afraid A B
Did you hear that, asked [A]. | Wake up, [B], said [A].
There it was again. | It sounded like somebody with heavy boots.
Maybe it is a thief, said [B]. | Maybe it is a ghost, said [B].
[B] took a candle and opened the door. | They went [quietly] down the stairs.
The stairs were dark and cold. | Every step made a little sound.
Who is there, called [A]. | Come out, cried [B].
Two yellow eyes looked at them. | Something moved [near] the [furniture].
It was only a [Z]. | A little [Z] was eating the cheese.
They both laughed out loud. | You gave us a fright, said [A].
?They gave it some milk and a piece of bread. | It ran out through the open window.
@night A B
""",
    ),
    "concert": (
        "I:instrument N:number",
        """
[A] wanted to learn to play the [I]. | [A] loved the sound of the [I].
[C] had an old [I]. | There was an old [I] in the attic.
Will you teach me, asked [A]. | I can teach you, said [C].
At first it sounded terrible. | [D] ran away when [A] began to play.
@try A C
[A] practiced for [N] weeks. | [he A] practiced the [I] every day.
You play better every day, said [B]. | That was much better, said [C].
Then the day of the concert came. | On [weekday] there was a concert at the school.
@afraid A B
@comfort A B
[A] went up to the stage and began to play. | The hall was full, and all was quiet.
It was the most beautiful music. | [he A] played without one mistake.
@proud A B
@happy A B
""",
    ),
    "painting": (
        "F:color P:outdoor",
        """
[A] had a new box of paints. | [A] wanted to paint a picture of the [P].
What are you painting, asked [B]. | May I paint too, asked [B].
First [A] painted a [F] sky. | [A] dipped the brush into the [F] paint.
[B] painted a [size] house and a [color] door. | [B] painted a [wild] under a tree.
?[D] walked over the wet picture. | Some of the paint fell on the carpet.
@sad A B
@comfort A B
Now it looks like a flower, said [B]. | We can paint over it, said [B].
They painted until it was dark. | They mixed blue and yellow and got green.
The picture was finished at last. | It is the best picture of all, said [B].
@proud A B
They hung the picture on the wall. | [A] gave the picture to [his A] grandmother.
@happy A B
""",
    ),
    "window": (
        "P:building",
        """
[A] and [B] were playing football near the [P]. | They were playing ball in the street.
[A] kicked the ball as hard as [he A] could. | The ball flew high into the air.
Then there was a loud crash. | It flew right through the window of the [P].
The window is broken, said [B]. | There was broken glass everywhere.
@afraid A B
Let us run away, said [B]. | What shall we tell them, asked [B].
No, said [A], we must tell the truth. | That would not be right, said [A].
They knocked on the door of the [P]. | [C] came out and looked very angry.
Who did that, asked [C]. | I am sorry, I broke your window, said [A].
You told the truth, and that is good, said [C]. | Then you must help me to mend it, said [C].
@work A B
By evening there was a new window. | [C] gave the ball back to them.
@thank A C
""",
    ),
    "race": (
        "P:outdoor",
        """
On [weekday] there was a big race. | Every summer there was a race around the [P].
I want to win, said [A]. | [A] had trained for many weeks.
[number] children stood at the line. | [B] stood next to [A] at the line.
One, two, three, go. | Ready, called the teacher, and go.
[A] ran as fast as the wind. | [A] was first, and [B] was second.
Suddenly [B] fell down. | Then [B] fell over a stone.
My knee hurts, said [B]. | [B] could not get up.
[A] stopped and ran back. | [A] turned around and helped [him B].
Go on, you can still win, said [B]. | You are more important, said [A].
@thank B A
They crossed the line together, hand in hand. | They were the last, but everybody cheered.
@proud A B
[A] got a medal for being a good friend. | That is better than winning, said [B].
@happy A B
""",
    ),
    "hide and seek": (
        "Q:furniture P:room",
        """
Let us play hide and seek, said [A]. | They played hide and seek in the house.
@agree B A
[B] covered [his B] eyes and counted to [number]. | I will count, and you hide, said [B].
[A] hid behind the [Q]. | [A] ran into the [P] and hid there.
I am coming, called [B]. | Ready or not, here I come, called [B].
[B] looked [near] the [furniture]. | [B] opened the door of the [P].
[A] kept as still as a mouse. | [A] tried not to laugh.
?@wait B A
I give up, said [B]. | Where are you, called [B].
Then [A] sneezed. | But [D] ran straight to [him A].
I see you, cried [B]. | There you are, laughed [B].
Now it is my turn, said [A]. | They played until supper was ready.
@happy B A
""",
    ),
    "lost in the forest": (
        "N:color",
        """
[A] and [B] went deep into the forest. | They followed a [N] butterfly into the forest.
The trees were tall and dark. | It grew darker and darker under the trees.
Where is the path, asked [A]. | I think we are lost, said [B].
@afraid A B
@comfort A B
They called, but nobody answered. | Only an owl answered them.
Let us follow the stream, said [B]. | [B] climbed a tree and looked around.
I see a light, said [B]. | Far away they saw a small light.
They walked toward the light. | They walked on through bushes and thorns.
It was the house of [C]. | It was [C] with a lantern.
What are you doing here, asked [C]. | I was looking for you, said [C].
[C] took them home. | [C] gave them bread and warm milk.
@thank A C
@night A B
""",
    ),
    "treasure": (
        "F:color P:outdoor",
        """
In an old book [A] found a map. | [A] and [B] found a map in the attic.
This is the map of a treasure, said [A]. | There is a [F] cross on it, said [B].
@idea B A
They took a shovel and went to the [P]. | The cross is near the [P], said [A].
?@walk A B
Ten steps to the left, read [B]. | [number] steps from the big stone, read [B].
They began to dig. | [A] dug a deep hole.
@work A B
Suddenly the shovel hit something hard. | There is something down here, cried [A].
It was an old box of [material]. | They pulled a heavy box out of the hole.
What is inside, asked [B]. | The lock was old and broke at once.
The box was full of [size] [color] stones. | Inside were [number] old coins and a letter.
@happy A B
We are rich, cried [B]. | Let us share it with everybody, said [A].
""",
    ),
    "grandmother": (
        "S:dish M:flowers",
        """
[A] and [B] went to visit the grandmother of [A]. | On [weekday] [A] went to see [his A] grandmother.
They took her a basket with [S] and [M]. | [B] had picked some [M] for her.
Grandmother lived in a house with a [color] roof. | Her house was full of old clocks.
Come in, my dears, said grandmother. | How big you are, said grandmother.
She kissed [A] on both cheeks. | She was knitting a [color] sweater.
@eat A B
Tell us a story, said [A]. | What was it like when you were young, asked [B].
When I was young, there were no cars, she said. | We had no lamps then, only candles, she said.
@ask B A
She showed them an old photograph. | That is your grandfather, she said.
Come again soon, said grandmother. | She gave [A] a jar of honey.
@thank A B
@home B A
""",
    ),
    "farm": (
        "K1:pet N:number",
        """
[A] and [B] spent the day on a farm. | [C] took them to a farm.
The farm had [N] cows and many hens. | There were cows, sheep and horses.
May we feed them, asked [A]. | [A] gave the horse some hay.
The hens ran after [B]. | A little lamb licked [his B] hand. | Its tail was full of mud, but [B] washed it clean. | A cow shook its head and its tail.
They helped to milk the cows. | They looked for eggs in the straw.
I found [N] eggs, said [B]. | Here is another one, said [A].
Then somebody left the gate open. | Oh no, the gate is open, cried [B].
All the sheep ran into the [outdoor]. | A cow ran down the road.
@afraid A B
They ran after the animals. | [A] ran to the left, and [B] ran to the right.
@try A B
At last all the animals were back. | They closed the gate behind the last sheep. | They tied the gate with a string.
@proud A C
@eat B A
""",
    ),
    "campfire": (
        "P:outdoor",
        """
In [season] they slept in a tent near the [P]. | [A] and [B] put up a tent.
They gathered dry wood for a fire. | [B] made a small fire.
The flames danced in the wind. | The fire was warm and bright.
They cooked [dish] over the fire. | They roasted [vegetables] in the ashes. | They could tie the tent to a tree.
@eat A B
Look at all those stars, said [A]. | There were a thousand stars in the sky.
That one is the brightest, said [B]. | I can see the moon, said [B].
[A] saw a star fall. | A star fell from the sky.
Make a wish, said [B]. | What did you wish for, asked [B].
I cannot tell you, said [A]. | I wished for a day like this, said [A].
?Far away a wolf howled. | They listened to the sounds of the night.
They put out the fire and went to sleep. | In the tent it was warm and dark.
@night A B
""",
    ),
    "mending": (
        "T:furniture L:tool",
        """
The old [T] was broken. | [A] sat down, and the [T] broke.
@sad A B
I know who can mend it, said [B]. | Let us ask [C], said [B].
They carried the [T] to the house of [C]. | They put the broken [T] on a wagon.
@greet C A
Can you mend this [T], asked [A]. | What happened to it, asked [C].
One leg is broken, said [C]. | This is an easy job, said [C].
[C] took a [L] and some glue. | Hand me the [L], please, said [C].
@work A B
[A] held the wood, and [C] cut it. | [C] showed them how to do it.
Now it needs a coat of paint, said [C]. | [B] painted the [T] [color].
The [T] was as good as new. | It looks better than before, said [A].
@thank A C
What do I owe you, asked [A]. | You owe me nothing, said [C].
""",
    ),
    "fair": (
        "F:color T:toy",
        """
The circus had come to town. | There was a fair in the town.
@idea A B
They saw lights and heard music. | A clown with a [F] nose stood at the gate.
Come in, come in, called the clown. | They bought two tickets.
A lady in a [F] dress danced on a horse. | Three bears rode on bicycles.
A man threw [number] plates into the air. | An elephant stood on two legs.
@happy B A
[A] won a [F] [T] in a game. | [B] threw a ball and won a [T].
Would you like to have it, asked [A]. | This [T] is for you, said [B].
?@thank B A
They went around and around on the big wheel. | They rode on wooden horses.
I feel a little sick, said [B]. | Once more, cried [A]. | Higher, higher, cried [A].
They ate so much sugar that they felt ill. | They bought sweets and lemonade.
@home A B
""",
    ),
    "library": (
        "Z:wild F:color",
        """
[A] went to the library to find a book. | [A] and [B] went to the library.
It was very quiet there. | There were books up to the ceiling. | The halls were filled with books.
What are you looking for, asked the lady. | May I help you, whispered the lady.
I want a book about a [Z], said [A]. | Do you have a book about an animal, asked [B]. | I want a book about giants and bones, said [A].
It is on the top shelf, said the lady. | She brought them a thick [F] book.
They sat down and began to read. | [A] read [quietly], and [B] looked at the pictures.
It was about a [Z] that could talk. | The story was about a king and a [Z].
?@ask B A
How does it end, asked [B]. | Turn the page, said [B].
They forgot the time. | They read until the library closed.
You can take it home, said the lady. | Bring it back in [number] weeks, said the lady.
@happy A B
@night A B
""",
    ),
    "neighbor": (
        "S:dish",
        """
A new family moved into the next house. | A big truck stopped in front of the house.
Men carried chairs, tables and a bath inside. | A man carried shells, soap and towels inside. | Look, we have new neighbors, said [A].
@ask B A
Let us bring them some [S], said [B]. | My mother made [S] for them, said [A].
They knocked on the door. | [A] rang the bell.
An old man with a white beard opened. | A woman with a baby opened the door.
Welcome, said [A]. | We live next door, said [B].
How kind of you, said the neighbor. | Please come in, said the neighbor.
They helped to open the boxes. | [A] carried the books up the stairs.
@work A B
In one box there was a [instrument]. | In one box there were [number] hats.
@eat B A
We will be good friends, said the neighbor. | Come and see us again, said the neighbor.
@happy A B
""",
    ),
    "bedtime": (
        "Z:wild P:outdoor",
        """
It was late, but [A] was not tired. | [A] could not sleep that night.
Tell me a story, said [A]. | [B] sat down on the bed.
Once upon a time there was a [Z], said [B]. | I will tell you a story, said [B].
The [Z] lived alone in the [P]. | One day the [Z] met a king.
Why was it alone, asked [A]. | And what happened then, asked [A].
The king gave the [Z] a golden crown. | The [Z] wanted to see the world.
So it walked over the hills and far away. | It crossed seven rivers and seven hills.
?Was it afraid, asked [A]. | I would be afraid, said [A].
At last the [Z] found a friend. | In the end the [Z] came home again.
That is a good story, said [A]. | Tell it again, said [A].
Tomorrow, said [B], and blew out the candle. | Now close your eyes, said [B].
@night A B
""",
    ),
    "quarrel": (
        "T:toy F:color",
        """
[A] and [B] both wanted the [F] [T]. | [A] was playing with the [F] [T].
Give it to me, said [B]. | It is mine, said [A].
You always take my things, said [A]. | That is not fair, said [B].
They pulled at the [T] until it broke. | [B] threw the [T] on the floor.
Now look what you have done, cried [A]. | Go away, I am angry, said [A].
[B] went home without a word. | [A] went into the [room] and shut the door.
@sad B A
The house was very quiet. | It is no fun to play alone, thought [A].
[A] went to see [B]. | There was a knock at the door.
I am sorry, said [A]. | I am sorry too, said [B].
We can mend it together, said [B]. | You may have the [T] today, said [A].
@thank B A
They were friends again. | They never quarreled about the [T] again.
""",
    ),
    "cookies": (
        "N:number P:room",
        """
There were [N] cookies on the plate. | [his A] mother had made [N] cookies.
Nobody may touch them before supper, she said. | They are for the party, she said.
When she came back, the plate was empty. | An hour later the cookies were gone.
Who ate the cookies, asked [his A] mother. | I did not eat them, said [A].
It was not me, said [B]. | Then who was it, asked [A].
@idea B A
There were crumbs on the floor. | They followed the crumbs into the [P].
The crumbs went under the bed. | The crumbs led them to the [P].
Quiet, I hear something, said [B]. | Something was moving in the dark.
It was [D] with a very fat belly. | There sat [D] and ate the last cookie.
[D], you are a thief, laughed [A]. | [D] looked at them with big eyes.
They baked some more cookies together. | Let us make new ones, said [B].
@eat A B
""",
    ),
    "lamb": (
        "F:season",
        """
In [F] a little lamb was born. | One night a lamb was born in the barn.
It was so small that it could not stand. | Its mother had no milk for it.
@sad A B
[C] gave [A] a bottle of warm milk. | You must feed it every [number] hours, said [C].
[A] held the lamb in [his A] lap. | The lamb drank all the milk.
@happy A B
[B] made a bed of straw for it. | They put it near the warm stove.
Do you think it will live, asked [B]. | It needs us, said [A]. | It is alive, and it holds my finger, said [B].
@night A B
In the morning the lamb stood on its feet. | After a few days it could jump and run.
The lamb followed [A] to school. | It followed [him A] wherever [he A] went.
Everybody laughed at the lamb in the classroom. | You cannot bring a lamb to school, said the teacher.
Soon it was a big white sheep. | [A] and the lamb were always together.
@proud A C
""",
    ),
    "museum": (
        "W:material Z:wild",
        """
[A] and [B] went to the museum with [C]. | On [weekday] [C] took them to the museum.
It was a big building of [W]. | The halls were long and cool.
Do not touch anything, said [C]. | Stay close to me, said [C].
They saw the bones of a giant animal. | First they saw an old ship.
It is as big as a house, said [A]. | How old is it, asked [A].
It is [number] thousand years old, said [C]. | Nobody knows, said [C].
@ask A C
In the next room stood a king of [W]. | There was a [Z] made of [W].
It looks alive, said [B]. | I think it moved, said [B].
@afraid B A
It is only [W], laughed [A]. | [C] laughed and shook [his C] head.
They bought a card with a picture of it. | They saw so much that their feet hurt.
@home A B
@thank A C
""",
    ),
    "kite": (
        "F:color P:outdoor",
        """
[A] had made a [F] kite out of paper. | The wind was strong, and [A] had a [F] kite.
Let us fly it near the [P], said [B]. | They ran to the [P] with the kite.
@weather A B
[B] held the kite, and [A] held the line. | Now let it go, cried [A].
The [F] kite went up into the sky. | It flew higher than the trees.
@happy A B
Suddenly the line broke. | Then the wind blew too hard.
The kite fell into a tall tree. | It was caught in the top of a tree.
@sad A B
@comfort A B
[C] brought a ladder. | [B] climbed up the tree very [quietly].
@try B A
[B] took the kite and came down. | Here is your kite, said [B].
@thank A B
They flew the kite until evening. | They tied the line with a strong knot.
""",
    ),
    "bridge": (
        "F:material P:building",
        """
The bridge over the river was broken. | In the storm the old bridge had fallen down.
How can we get to the [P] now, asked [A]. | The [P] was on the other side.
@idea B A
We need a boat, said [B]. | We can build a new bridge, said [B].
@help A C
[C] brought boards and a long rope. | Everybody from the town came to help.
@work A B
They laid a big tree across the water. | They built the new bridge of [F].
@try A B
Who will go first, asked [C]. | Is it strong enough, asked [B].
[A] walked over it very [quietly]. | [A] went first, step by step.
@afraid A B
It holds, cried [A]. | [A] stood on the other side and waved.
@proud A C
Then they all walked over the bridge. | They danced on the new bridge that evening.
""",
    ),
    "shells": (
        "N:number F:color",
        """
[A] and [B] went to the sea. | They took off their shoes and ran to the beach.
The sand was warm, and the water was cold. | The waves came and went.
Let us look for shells, said [A]. | [A] found a [F] shell in the sand.
Put it to your ear, said [B]. | What do you hear, asked [B].
I can hear the sea, said [A]. | It sounds like the wind, said [A].
They found [N] shells that day. | Soon they had [N] shells in the bucket.
Then they built a castle of sand. | [B] built a tower of sand.
?A small crab walked over the castle. | A wave came and took the castle away.
@sad B A
@comfort B A
We can build another one, said [A]. | They built a bigger one higher up.
@eat A B
@home A B
""",
    ),
    "washing": (
        "F:color",
        """
[D] had rolled in the mud. | [D] was black from head to tail.
You need a bath, said [A]. | [D] must have a bath, said [A].
@help A B
They filled a tub with warm water. | [B] brought soap and a brush.
But [D] did not want to get wet. | [D] saw the water and ran away.
They ran after [him D] through the house. | [D] hid behind the sofa.
@search A B
I have got [him D], cried [B]. | [A] held [D] with both arms.
They put [him D] into the tub. | [D] jumped, and water flew everywhere.
Now we are all wet, laughed [A]. | [B] was wet from head to foot.
@try A B
Then [D] was clean again. | They dried [him D] with a [F] towel.
[D] ran out and rolled in the mud again. | [D] lay down by the fire and slept.
@happy A B
""",
    ),
    "tooth": (
        "N:number",
        """
[A] had a loose tooth. | One of [his A] teeth was not strong.
It hurts when I eat, said [A]. | Let me see it, said [B].
@afraid A B
@comfort A B
You can tie a string to it, said [B]. | Eat an apple, and it will come out, said [B].
@idea A B
[A] took a bite of bread. | [A] pulled a little, but nothing happened.
@try A B
Suddenly the tooth was out. | There it is, cried [B].
@happy A B
[A] put the tooth under [his A] pillow. | Put it under your pillow, said [B].
@night A B
In the morning there were [N] coins. | In the morning the tooth was gone.
@thank A B
""",
    ),
}
HELDOUT_SCENES = ("kite", "bridge", "shells", "tooth", "museum", "window")
