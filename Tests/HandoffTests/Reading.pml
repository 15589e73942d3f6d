/*
 * Nodes of a site that read a volume while nobody writes to it, as a model for spin: every order of messages, losses,
 * repetitions, crashes and wishes. The names of the invariants are those of `HeadRecord`'s documentation. A hand-off, of
 * which Handoff.pml tells all, is one step here.
 *
 * A message that was sent stays deliverable, until the node that it is for crashes, and its connections with it. An
 * attachment that a node was told of is mounted late too, after it was detached. Left out: that an offer arrives after a
 * later detachment at its node, and that the node still mounts what was attached before while it is let in anew.
 *
 * -DNODES, -DADMISSIONS, -DWRITES, -DMOVES (hand-overs), -DFAILED_MOVES, -DGONE (members deleted), -DCRASHES set the size;
 * -DBUG_… plants an error that must be found.
 */
#ifndef NODES
#define NODES 3
#endif
#ifndef ADMISSIONS
#define ADMISSIONS 3
#endif
#ifndef WRITES
#define WRITES 1
#endif
#ifndef MOVES
#define MOVES 0
#endif
#ifndef FAILED_MOVES
#define FAILED_MOVES 0
#endif
#ifndef GONE
#define GONE 0
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
/* Epochs of the model: what needs a higher one does not happen. */
#define HIGHEST 6

/* A node that does not own the volume. */
#define UNKNOWING 0
#define FOLLOWING 1
#define RETIRED 2

/* What is true of the owner's record, whichever node it is. */
byte owner, epoch = 1;
byte readers;
/* How often somebody was let in under this epoch: with it the revision of the record. */
byte said;
/* The state that whoever writes makes. */
byte content;

typedef Node {
    byte role; byte known;
    /* The newest offer that was heard of; lost in a crash. */
    byte offered;
    /* What is read here: of which epoch, and of which state, from 1; 0: nothing. */
    byte head; byte seen;
    bit mounted;
    /* An attachment is being mounted: nothing else is done meanwhile. */
    bit isStaging;
    /* A question that the owner has allowed: under which epoch, and what was then read. */
    byte asked; byte got;
    /* The epoch of the attachment that kubelet was told of. */
    byte attached;
    /* The owner's: an offer that is to be answered before the node is attached. */
    byte isOffered;
    /* That it reads no more is certain; or its member was deleted, though it may run. */
    bit hasEnded; bit isGone
}
Node node[NODES];
/* Messages that were sent, as bits by their stamps; by node. */
int offers[NODES], withdrawals[NODES];

/* What only the model knows. */
byte readEpochs;
byte admissions = ADMISSIONS, moves = MOVES, failedMoves = FAILED_MOVES, gone = GONE, crashes = CRASHES;

#define only(n) (1 << (n))
#define isReader(n) ((readers & only(n)) != 0)
#define mayRead(n, e) (isReader(n) && epoch == (e))
#define stamp ((epoch - 1) * 4 + said)
#define epochOf(s) ((s) / 4 + 1)
#define STAMPS(M, n) \
    M(n,0) M(n,1) M(n,2) M(n,3) M(n,4) M(n,5) M(n,6) M(n,7) M(n,8) M(n,9) M(n,10) M(n,11) M(n,12) M(n,13) M(n,14) \
    M(n,15) M(n,16) M(n,17) M(n,18) M(n,19) M(n,20) M(n,21) M(n,22) M(n,23)

hidden byte nobodyWritesWhatIsRead, readsOneState, endsBeforeWrites, admittedStaysKnown;
hidden byte i;

inline endReading(n) {
    node[n].head = 0; node[n].seen = 0; node[n].mounted = 0;
    node[n].asked = 0; node[n].got = 0
}
inline raise() { epoch = epoch + 1; said = 0 }
inline drop(n) {
    readers = readers & ~only(n);
#ifndef BUG_EPOCH_KEPT
    if :: (readers == 0) -> raise() :: else fi
#endif
}
/* The last to go needs another epoch. */
#define mayDrop(n) (readers != only(n) || epoch < HIGHEST)

inline hearOffer(n, s) {
    if :: (node[n].role == UNKNOWING) -> node[n].known = 0; node[n].offered = 0 :: else fi;
    if :: (node[n].known < epochOf(s)) -> node[n].known = epochOf(s) :: else fi;
    if :: (node[n].offered < (s)) -> node[n].offered = s :: else fi;
    node[n].role = FOLLOWING
}
inline hearWithdrawal(n, s) {
    if
    :: (node[n].role == UNKNOWING)
    :: (node[n].role != UNKNOWING && node[n].known > epochOf(s))
#ifndef BUG_WITHDRAWAL_WITHOUT_NUMBER
    :: (node[n].role != UNKNOWING && node[n].known <= epochOf(s) && node[n].offered > (s))
#endif
    :: else ->
        node[n].known = epochOf(s);
        if :: (node[n].head != 0 && node[n].head < node[n].known) -> endReading(n) :: else fi;
        /* What is read is not forgotten. */
        if
        :: (node[n].head == 0) ->
            node[n].role = UNKNOWING; node[n].known = 0; node[n].offered = 0
        :: else
        fi
    fi
}

/* ---- what always holds ---- */

inline check() {
    d_step {
        i = 0; admittedStaysKnown = 1;
        do
        :: (i < NODES) ->
            if
            :: (isReader(i) && node[i].attached == epoch && !node[i].isOffered && !node[i].hasEnded && !node[i].isGone) ->
                admittedStaysKnown = admittedStaysKnown && node[i].role == FOLLOWING && node[i].known == epoch
            :: else
            fi;
            i = i + 1
        :: else -> break
        od;
        i = 0;
        assert(admittedStaysKnown)
    }
}

/* ---- a node ---- */

#define ON_OFFER(n, s) :: (offers[n] & (1 << s)) -> at = s
#define ON_WITHDRAWAL(n, s) :: (withdrawals[n] & (1 << s)) -> at = s

proctype Site(byte n) {
    byte at;
end:
    do
    /* The owner lets it in, and offers it the volume. */
    :: atomic {
        (n != owner && !isReader(n) && !node[n].isGone && !node[n].isStaging && admissions > 0
            && (readers != 0 || epoch < HIGHEST)) ->
        d_step {
            admissions = admissions - 1;
            if :: (readers == 0) -> raise(); readEpochs = readEpochs | only(epoch) :: else fi;
            readers = readers | only(n); said = said + 1;
            node[n].attached = 0; node[n].hasEnded = 0; node[n].isOffered = 1;
            offers[n] = offers[n] | (1 << stamp)
        }
        check()
    }
    /* Once more, because its detachment came to nothing after the node had ended. */
    :: atomic {
        (isReader(n) && node[n].hasEnded && !node[n].isOffered && admissions > 0) ->
        d_step {
            admissions = admissions - 1;
            node[n].attached = 0; node[n].hasEnded = 0; node[n].isOffered = 1;
            offers[n] = offers[n] | (1 << stamp)
        }
    }
    /* The offer arrives. Its answer is lost, or the node is attached. */
    :: atomic {
        (n != owner && offers[n] != 0) ->
        if STAMPS(ON_OFFER, n) fi;
        d_step { hearOffer(n, at) }
        if
        :: (node[n].isOffered && at == stamp) -> node[n].isOffered = 0; node[n].attached = epoch
        :: true
        fi;
        at = 0;
        check()
    }
    /* No answer came: it is not let in. */
    :: atomic {
        (node[n].isOffered && isReader(n) && mayDrop(n)) ->
        d_step { node[n].isOffered = 0; drop(n) }
        check()
    }
    /* A mount begins, with what is here or with the owner's word. */
    :: atomic {
        (n != owner && node[n].attached != 0 && !node[n].mounted && !node[n].isStaging
            && node[n].role == FOLLOWING && node[n].known == node[n].attached) ->
        d_step {
            if
            :: (node[n].head == node[n].attached) -> node[n].mounted = 1
            :: else ->
                endReading(n);
                if
                :: (mayRead(n, node[n].attached)) -> node[n].isStaging = 1; node[n].asked = node[n].attached
                :: else
                fi
            fi
        }
    }
    /* Bytes are missing. */
    :: atomic { (node[n].mounted && node[n].asked == 0 && mayRead(n, node[n].head)) -> node[n].asked = node[n].head }
    :: atomic { (node[n].asked != 0 && node[n].got == 0) -> node[n].got = content + 1 }
    /* The owner looks again after it has read. */
    :: atomic {
        (node[n].got != 0) ->
        d_step {
            if
#ifdef BUG_ASKED_ONCE
            :: true ->
#else
            :: (mayRead(n, node[n].asked)) ->
#endif
                if
                :: (node[n].isStaging) ->
                    node[n].head = node[n].asked; node[n].seen = node[n].got; node[n].mounted = 1
                :: else ->
                    readsOneState = (node[n].seen == node[n].got);
                    assert(readsOneState)
                fi
#ifndef BUG_ASKED_ONCE
            :: else
#endif
            fi;
            node[n].asked = 0; node[n].got = 0; node[n].isStaging = 0
        }
    }
    /* It is detached: first the node ends, and does not begin again unasked, and then the owner is told. */
    :: atomic {
        (isReader(n) && !node[n].isOffered && !node[n].isStaging && !node[n].hasEnded && !node[n].isGone) ->
        d_step {
            endReading(n);
            if :: (node[n].role == FOLLOWING) -> node[n].role = RETIRED :: else fi;
            node[n].hasEnded = 1;
            offers[n] = 0
        }
    }
    :: atomic {
#ifdef BUG_DROPPED_UNASKED
        (isReader(n) && !node[n].isOffered && mayDrop(n)) ->
#else
        (isReader(n) && !node[n].isOffered && mayDrop(n) && (node[n].hasEnded || node[n].isGone)) ->
#endif
        d_step {
            drop(n);
            node[n].hasEnded = 0;
            withdrawals[n] = withdrawals[n] | (1 << stamp)
        }
        check()
    }
    /* An offer is taken back. */
    :: atomic {
        (n != owner && withdrawals[n] != 0 && !node[n].isStaging) ->
        if STAMPS(ON_WITHDRAWAL, n) fi;
        d_step { hearWithdrawal(n, at); at = 0 }
        check()
    }
    /* The volume was to move there, and does not. */
    :: atomic {
        (n != owner && !isReader(n) && !node[n].isGone && failedMoves > 0) ->
        d_step {
            failedMoves = failedMoves - 1;
            offers[n] = offers[n] | (1 << stamp); withdrawals[n] = withdrawals[n] | (1 << stamp)
        }
    }
    /* It hears of a newer epoch, or asks; then what is read of an older one ends. */
    :: atomic {
        (n != owner && node[n].role != UNKNOWING && node[n].known < epoch) -> node[n].known = epoch;
        check()
    }
    :: atomic {
        (node[n].head != 0 && !node[n].isStaging && (node[n].head < node[n].known || !mayRead(n, node[n].head))) ->
        d_step { endReading(n) }
    }
    /* A write, at the owner; the mount and its end are part of it. */
    :: atomic {
        (n == owner && readers == 0 && content < WRITES) ->
        d_step {
            nobodyWritesWhatIsRead = !(readEpochs & only(epoch));
            assert(nobodyWritesWhatIsRead);
            i = 0; endsBeforeWrites = 1;
            do
            :: (i < NODES) ->
                endsBeforeWrites = endsBeforeWrites && (!node[i].mounted || node[i].isGone);
                i = i + 1
            :: else -> break
            od;
            i = 0;
            assert(endsBeforeWrites);
            content = content + 1
        }
    }
    /* A hand-over to this node. */
    :: atomic {
        (n != owner && readers == 0 && moves > 0 && epoch < HIGHEST && !node[n].isGone && !node[n].isStaging) ->
        d_step {
            moves = moves - 1;
            raise();
            node[owner].role = RETIRED; node[owner].known = epoch;
            endReading(n);
            node[n].role = RETIRED; node[n].known = epoch;
            owner = n
        }
        check()
    }
    :: atomic { (gone > 0 && n != owner && !node[n].isGone) -> gone = gone - 1; node[n].isGone = 1 }
    /* A crash and a restart; what keeps mounts may have them still. */
    :: atomic {
        (crashes > 0 && n != owner) ->
        d_step {
            crashes = crashes - 1;
            node[n].isStaging = 0; node[n].asked = 0; node[n].got = 0;
            node[n].offered = 0; offers[n] = 0; withdrawals[n] = 0
        }
        if :: node[n].mounted = 0 :: true fi
    }
    od
}

init {
    byte site;
    atomic {
        node[0].role = RETIRED; node[0].known = 1;
        do
        :: (site < NODES) -> run Site(site); site = site + 1
        :: else -> break
        od;
        site = 0
    }
}
