-- A run's plan is most of it and hardly ever changes, so it is not written with each step that is done.
ALTER TABLE runs
    ADD COLUMN plan jsonb,
    -- Another one when the plan is changed: whoever has read the plan of this id need not read it again.
    ADD COLUMN plan_id uuid NOT NULL DEFAULT gen_random_uuid();

UPDATE runs SET plan = run -> 'plan', run = run - 'plan';

ALTER TABLE runs
    ALTER COLUMN plan SET NOT NULL,
    ADD CHECK (NOT run ? 'plan');
